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
)
from promptbake_torch import forward
from promptbake_torch.engine import Engine
from promptbake_torch.few_rows import FewRows
from promptbake_torch.memory import memory_bytes
from promptbake_torch.random_draws import choose_tokens, tail_uniform, uniform
from promptbake_torch.responses import Column, ColumnScores, Responses, top_k_and_draws

SCORE_BATCH_ON_CPU = 4  # 1.3 times as fast as one by one; float32 [N, V] is held for each
SCORE_BATCH_ON_GPU = 16
STILL_RUNNING = 7 / 8  # rows that have ended leave the batch once they are so many
TRAINING_PASSES = 3  # a forward pass, and a backward pass of about twice as much work


class TorchModel:
    """The base model, or a baked one.

    Args:
        engine: The module, which the base model and the baked ones share.
        adapter: The baked one's; None for the base model.
        sample_batch: How many prompts are sampled at a time.
    """

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
        """One where the chat template has no system role."""
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
            columns = self._decode(prompts[part], max_tokens, temperatures[part], seeds[part])
            responses = Responses(len(prompts[part]), self.renderer.stop_ids)
            for _ in responses.growing(columns):
                progress(len(prompts[part]) / max_tokens)
            yield from enumerate(responses.completions, start)

    def sample_with_top_k(
        self,
        prompts: Sequence[TokenIds],
        *,
        max_tokens: int,
        temperatures: Sequence[float],
        seeds: Sequence[int],
        k: int,
        draws: int,
        draw_seeds: Sequence[int],
        progress: Callable[[float], None] = no_progress,
    ) -> Iterator[tuple[int, Completion, TeacherLogprobs]]:
        """As `sample`, with what `top_k` would give."""
        for start in range(0, len(prompts), self.sample_batch):
            part = slice(start, start + self.sample_batch)
            columns = self._decode(prompts[part], max_tokens, temperatures[part], seeds[part])
            responses = Responses(len(prompts[part]), self.renderer.stop_ids)
            scores = ColumnScores(draw_seeds[part], max_tokens, k, draws)
            for column in responses.growing(columns):
                scores.add(column)
                progress(len(prompts[part]) / max_tokens)
            for row, completion in enumerate(responses.completions):
                yield start + row, completion, scores.of(row)

    def stream(
        self, prompt: TokenIds, *, max_tokens: int, temperature: float, seed: int
    ) -> Iterator[StreamChunk]:
        """Sample one response, token by token."""
        for column in self._decode([prompt], max_tokens, [temperature], [seed]):
            if column.tokens[0] in self.renderer.stop_ids:
                yield StreamChunk(stop_reason="stop")
                return
            yield StreamChunk((column.tokens[0],))
        yield StreamChunk(stop_reason="length")

    def top_k(
        self, spans: Sequence[Span], *, k: int, draws: int, seeds: Sequence[int]
    ) -> Iterator[tuple[int, TeacherLogprobs]]:
        """The top K at each response position, and draws from the rest.

        In the order of the spans. One at a time on a CPU, so that rounding does not let a result
        depend on the other spans.
        """
        batch = 1 if self.engine.device.type == "cpu" else SCORE_BATCH_ON_GPU
        scores = zip(self._scores(spans, batch), seeds, strict=True)
        for index, (logprobs, seed) in enumerate(scores):
            yield index, top_k_and_draws(logprobs, k, tail_uniform(seed, len(logprobs), draws))

    def logprobs(
        self, spans: Sequence[Span], ids: Sequence[Tensor] | None = None
    ) -> Iterator[Tensor]:
        """Log-probabilities at the response positions, on the CPU."""
        batch = SCORE_BATCH_ON_CPU if self.engine.device.type == "cpu" else SCORE_BATCH_ON_GPU
        for index, logprobs in enumerate(self._scores(spans, batch)):
            yield logprobs if ids is None else logprobs.gather(1, ids[index])

    def estimate_cost(self, work: WorkItem) -> CostEstimate:
        """Free; seconds are extrapolated from a short forward pass and a short response."""
        tokens = sum(length for length, _ in work.rows) * work.times
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
        memory = memory_bytes(
            self.engine.module, work, self.sample_batch, shares=self.engine.shares_prefixes
        )
        return CostEstimate(usage, priced=True, seconds=seconds, memory_bytes=memory)

    @cached_property
    def _seconds_per_token(self) -> float:
        spans = [Span(self._probe * 8, len(self._probe))] * SCORE_BATCH_ON_CPU
        tokens = sum(len(span.tokens) for span in spans)
        return _seconds(lambda: self._logits(spans)) / tokens

    @cached_property
    def _seconds_per_decoded_column(self) -> float:
        prompts, columns = [self._probe] * self.sample_batch, 4
        temperatures, seeds = [1.0] * len(prompts), range(len(prompts))

        def decode() -> object:
            return [None for _ in self._decode(prompts, columns, temperatures, seeds)]

        return _seconds(decode) / columns

    @property
    def _probe(self) -> TokenIds:
        return self.renderer.prompt((Message("user", "?"),))

    def _scores(self, spans: Sequence[Span], batch: int) -> Iterator[Tensor]:
        for part in self.engine.batches([span.tokens for span in spans], batch):
            for logits in self._logits(spans[part]):
                yield logits.log_softmax(dim=1).cpu()

    @torch.inference_mode()
    def _logits(self, spans: Sequence[Span]) -> list[Tensor]:
        self.engine.check_length(max(len(span.tokens) for span in spans))
        return self.engine.response_logits(self.adapter, spans)

    def _decode(
        self,
        prompts: Sequence[TokenIds],
        max_tokens: int,
        temperatures: Sequence[float],
        seeds: Sequence[int],
    ) -> Iterator[Column]:
        """Yield the next token of every row that has not ended."""
        self.engine.check_length(max(map(len, prompts)) + max_tokens)
        device = self.engine.device
        uniform_BL = torch.stack([uniform(seed, max_tokens) for seed in seeds]).to(device)
        temperature = torch.tensor(temperatures, device=device).unsqueeze(1)
        with torch.inference_mode():
            cache, arguments = self.engine.begin(self.adapter, self.engine.pad(prompts))
        batch = list(range(len(prompts)))  # rows, of which some may have ended
        running = set(batch)
        for step in range(max_tokens):
            with torch.inference_mode(), FewRows():
                module = self.engine.with_adapter(self.adapter)
                logits, cache = forward.run_module(
                    module, cache, **arguments, use_cache=True, logits_to_keep=1
                )
                logits = logits[:, -1].float()
                chosen = choose_tokens(logits, temperature, uniform_BL[:, step : step + 1])
            column = Column(step, batch, chosen.squeeze(1).tolist(), logits)
            yield column.of(running)
            running -= column.ended(self.renderer.stop_ids)
            if not running:
                return
            mask = arguments["attention_mask"]
            arguments |= {
                "input_ids": chosen,
                "attention_mask": torch.cat([mask, mask[:, -1:]], dim=1),
                "position_ids": arguments["position_ids"][:, -1:] + 1,
            }
            if len(running) <= STILL_RUNNING * len(batch):
                kept = torch.tensor([n for n, row in enumerate(batch) if row in running]).to(device)
                batch = [row for row in batch if row in running]
                with torch.inference_mode():
                    cache.batch_select_indices(kept)
                for name in ("input_ids", "attention_mask", "position_ids"):
                    arguments[name] = arguments[name][kept]
                if "shared_prefix" in arguments:
                    prefixes = arguments["shared_prefix"]
                    arguments["shared_prefix"] = prefixes.of_rows(kept.tolist())
                uniform_BL, temperature = uniform_BL[kept], temperature[kept]


def _seconds(action: Callable[[], object]) -> float:
    """How long the action takes, once it has been run to set everything up."""
    action()
    started = time.perf_counter()
    action()
    return time.perf_counter() - started
