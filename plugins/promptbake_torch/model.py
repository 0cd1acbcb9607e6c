"""The core's Model: sampling and scoring with a Hugging Face model, baked or not."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterator, Sequence
from functools import cached_property

import torch
from torch import Tensor

from promptbake import (
    ChatRenderer,
    Completion,
    CostEstimate,
    Message,
    SampleWork,
    Span,
    StreamChunk,
    TeacherLogprobs,
    TokenIds,
    TrainWork,
    Usage,
    WorkItem,
    no_progress,
    tail_importance_weights,
)
from promptbake_torch import forward
from promptbake_torch.engine import Engine

SCORE_BATCH_ON_CPU = 4  # 1.3 times as fast as one by one; float32 [N, V] is held for each
SCORE_BATCH_ON_GPU = 16
TRAINING_PASSES = 3  # a forward pass, and a backward pass of about twice as much work


class TorchModel:
    """The base model (`adapter` None), or a baked one."""

    full_vocabulary = True

    def __init__(self, engine: Engine, adapter: str | None, sample_batch: int) -> None:
        self.engine = engine
        self.adapter = adapter
        self.sample_batch = sample_batch

    @property
    def name(self) -> str:
        """As in `model.name`."""
        return self.engine.name

    @property
    def digest(self) -> str:
        """Of the base model's files."""
        return self.engine.digest

    @property
    def context_tokens(self) -> int:
        """The most tokens that a sequence may have."""
        return self.engine.context_tokens

    @property
    def warnings(self) -> tuple[str, ...]:
        """That the chat template has no system role, if so."""
        if not self.renderer.folds_system:
            return ()
        return (
            "its chat template has no system role, so the prompt is put before the first user's "
            "turn",
        )

    @property
    def renderer(self) -> ChatRenderer:
        """The tokenizer's chat template."""
        return self.engine.renderer

    def sample(
        self,
        prompts: Sequence[TokenIds],
        *,
        max_tokens: int,
        temperatures: Sequence[float],
        seeds: Sequence[int],
        progress: Callable[[float], None] = no_progress,
    ) -> Iterator[tuple[int, Completion]]:
        """Sample `sample_batch` responses at a time, in the order of the prompts."""
        for start in range(0, len(prompts), self.sample_batch):
            part = slice(start, start + self.sample_batch)
            found = self._sample(
                prompts[part], max_tokens, temperatures[part], seeds[part], progress
            )
            yield from enumerate(found, start)

    def stream(
        self, prompt: TokenIds, *, max_tokens: int, temperature: float, seed: int
    ) -> Iterator[StreamChunk]:
        """Sample one response, token by token."""
        for (token,) in self._decode([prompt], max_tokens, [temperature], [seed]):
            if token in self.renderer.stop_ids:
                yield StreamChunk(stop_reason="stop")
                return
            yield StreamChunk((token,))
        yield StreamChunk(stop_reason="length")

    def top_k(
        self, spans: Sequence[Span], *, k: int, draws: int, seeds: Sequence[int]
    ) -> Iterator[tuple[int, TeacherLogprobs]]:
        """The top K at each response position, and draws from the rest.

        In the order of the spans. One at a time on a CPU, so that no result depends on its company
        by rounding.
        """
        batch = 1 if self.engine.device.type == "cpu" else SCORE_BATCH_ON_GPU
        scores = zip(self._scores(spans, batch), seeds, strict=True)
        for index, (logprobs, seed) in enumerate(scores):
            top = logprobs.topk(min(k, logprobs.shape[1]), dim=1)
            drawn = _draw_outside(logprobs, top.indices, draws, seed)
            drawn_logprobs = logprobs.gather(1, drawn)
            weights = tail_importance_weights(top.values, drawn_logprobs)
            yield index, TeacherLogprobs(top.indices, top.values, drawn, drawn_logprobs, weights)

    def logprobs(
        self, spans: Sequence[Span], ids: Sequence[Tensor] | None = None
    ) -> Iterator[Tensor]:
        """Log-probabilities at the response positions, on the CPU."""
        batch = SCORE_BATCH_ON_CPU if self.engine.device.type == "cpu" else SCORE_BATCH_ON_GPU
        for index, logprobs in enumerate(self._scores(spans, batch)):
            yield logprobs if ids is None else logprobs.gather(1, ids[index])

    def estimate_cost(self, work: WorkItem) -> CostEstimate:
        """Free; the seconds follow from timing a short forward pass and a short response."""
        tokens = sum(read for read, _ in work.rows) * work.times
        calls = len(work.rows) * work.times
        if isinstance(work, SampleWork):
            batches = math.ceil(len(work.rows) / self.sample_batch) * work.times
            longest = max((response for _, response in work.rows), default=0)
            seconds = batches * longest * self._seconds_per_decoded_column
            output = sum(response for _, response in work.rows) * work.times
            usage = Usage(calls, input_tokens=tokens, output_tokens=output)
        elif isinstance(work, TrainWork):
            seconds = tokens * TRAINING_PASSES * self._seconds_per_token
            usage = Usage(work.steps or calls, train_tokens=tokens)
        else:
            seconds = tokens * self._seconds_per_token
            usage = Usage(calls, input_tokens=tokens)
        return CostEstimate(usage, priced=True, seconds=seconds)

    @cached_property
    def _seconds_per_token(self) -> float:
        spans = [Span(self._probe * 8, len(self._probe))] * SCORE_BATCH_ON_CPU
        read = sum(len(span.tokens) for span in spans)
        return _timed(lambda: self._logits(spans)) / read

    @cached_property
    def _seconds_per_decoded_column(self) -> float:
        prompts, columns = [self._probe] * self.sample_batch, 4
        return (
            _timed(
                lambda: list(
                    self._decode(prompts, columns, [1.0] * len(prompts), range(len(prompts)))
                )
            )
            / columns
        )

    @property
    def _probe(self) -> TokenIds:
        return self.renderer.prompt((Message("user", "?"),))

    def _scores(self, spans: Sequence[Span], batch: int) -> Iterator[Tensor]:
        for start in range(0, len(spans), batch):
            for logits in self._logits(spans[start : start + batch]):
                yield logits.log_softmax(dim=1).cpu()

    @torch.inference_mode()
    def _logits(self, spans: Sequence[Span]) -> list[Tensor]:
        self.engine.check_length(max(len(span.tokens) for span in spans))
        rows = self.engine.pad([span.tokens for span in spans])
        cache = self.engine.prefix_cache(self.adapter, rows)
        longest = max(span.n_response for span in spans)
        with self.engine.using(self.adapter) as module:
            logits = forward.response_logits(module, rows, cache, longest)
        return [row[-span.n_response :] for row, span in zip(logits, spans, strict=True)]

    def _sample(
        self,
        prompts: Sequence[TokenIds],
        max_tokens: int,
        temperatures: Sequence[float],
        seeds: Sequence[int],
        progress: Callable[[float], None],
    ) -> Iterator[Completion]:
        tokens: list[list[int]] = [[] for _ in prompts]
        ended: set[int] = set()
        for column in self._decode(prompts, max_tokens, temperatures, seeds):
            for row, token in enumerate(column):
                if row in ended:
                    continue
                if token in self.renderer.stop_ids:
                    ended.add(row)
                else:
                    tokens[row].append(token)
            progress(len(prompts) / max_tokens)
            if len(ended) == len(prompts):
                break
        for row, found in enumerate(tokens):
            yield Completion(tuple(found), complete=row in ended)

    def _decode(
        self,
        prompts: Sequence[TokenIds],
        max_tokens: int,
        temperatures: Sequence[float],
        seeds: Sequence[int],
    ) -> Iterator[list[int]]:
        """The next token of every row, again and again; a row goes on past its end."""
        self.engine.check_length(max(map(len, prompts)) + max_tokens)
        device = self.engine.device
        uniform = torch.stack([_uniform(seed, max_tokens) for seed in seeds]).to(device)
        temperature = torch.tensor(temperatures, device=device).unsqueeze(1)
        with torch.inference_mode():
            rows = self.engine.pad(prompts)
            cache = self.engine.prefix_cache(self.adapter, rows)
        arguments = rows.arguments
        for step in range(max_tokens):
            with torch.inference_mode(), self.engine.using(self.adapter) as module:
                output = module(
                    **arguments, past_key_values=cache, use_cache=True, logits_to_keep=1
                )
                chosen = _choose(
                    output.logits[:, -1].float(), temperature, uniform[:, step : step + 1]
                )
                cache, mask = output.past_key_values, arguments["attention_mask"]
                arguments = {
                    "input_ids": chosen,
                    "attention_mask": torch.cat([mask, mask[:, -1:]], dim=1),
                    "position_ids": arguments["position_ids"][:, -1:] + 1,
                }
            yield chosen.squeeze(1).tolist()


def _timed(action: Callable[[], object]) -> float:
    """Seconds of the second time, when nothing has to be set up any more."""
    action()
    started = time.perf_counter()
    action()
    return time.perf_counter() - started


def _uniform(seed: int, count: int) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.rand(count, generator=generator, dtype=torch.float32)


def _choose(logits: Tensor, temperature: Tensor, uniform: Tensor) -> Tensor:
    """One token a row, [B, 1], by inverting the cumulative distribution; greedy at temperature 0."""
    probabilities = (logits / temperature.clamp(min=1e-6)).softmax(dim=1)
    cumulative = probabilities.cumsum(dim=1)
    drawn = torch.searchsorted(cumulative, uniform * cumulative[:, -1:])
    drawn = drawn.clamp(max=logits.shape[1] - 1)
    return torch.where(temperature > 0, drawn, logits.argmax(dim=1, keepdim=True))


def _draw_outside(logprobs: Tensor, top: Tensor, draws: int, seed: int) -> Tensor:
    """`draws` tokens a position, [N, M], with replacement, from what is outside the top."""
    if draws == 0 or top.shape[1] == logprobs.shape[1]:
        return top.new_zeros(len(top), 0)
    cumulative = logprobs.double().exp().scatter(1, top, 0.0).cumsum(dim=1)
    uniform = torch.rand(
        len(top), draws, generator=torch.Generator().manual_seed(seed), dtype=torch.float64
    )
    drawn = torch.searchsorted(cumulative, uniform * cumulative[:, -1:], right=True)
    return drawn.clamp(max=logprobs.shape[1] - 1)
