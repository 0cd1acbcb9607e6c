"""The core's Model on Tinker: sampling and scoring, many calls in flight at a time."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from functools import cached_property
from typing import Any

import tinker
import torch
from torch import Tensor

from promptbake import (
    BakeError,
    Completion,
    CostEstimate,
    Renderer,
    SampleWork,
    Span,
    StreamChunk,
    TeacherLogprobs,
    TokenIds,
    TopKWork,
    TrainWork,
    Usage,
    WorkItem,
    mask_top_k_draws,
    no_progress,
)
from promptbake_tinker import answers
from promptbake_tinker.base import Base
from promptbake_tinker.calls import Calls
from promptbake_tinker.datum_layout import DatumLayout
from promptbake_tinker.renderer import CookbookRenderer
from promptbake_tinker.scoring import OpenTraining, score
from promptbake_tinker.service import RefusalError

UNSUPPORTED = "may predate"  # how the SDK says that a service ignored a part of a request
SEEDS = 2**31  # the service takes as many


class TinkerModel:
    """The base model (`uri` None), or the weights at an address of the service's.

    `training` opens the same weights for a forward pass, where they can be opened.
    """

    full_vocabulary = False
    sample_batch = None  # no answer depends on another

    def __init__(
        self,
        base: Base,
        uri: str | None = None,
        sampler: tinker.SamplingClient | None = None,
        training: OpenTraining | None = None,
    ) -> None:
        self.base = base
        self.uri = uri
        self._given = sampler
        if uri is None and sampler is None:
            training = lambda: base.fresh  # noqa: E731
        self._open_training = training

    @property
    def name(self) -> str:
        """As in `model.name`."""
        return self.base.name

    @property
    def digest(self) -> str:
        """Of its name: the service keeps the weights."""
        return digest_of(self.base.name)

    @property
    def context_tokens(self) -> int:
        """The service's limit, less the one token that it samples after a span that it scores."""
        return (self.base.supported_model.max_context_length or 2**31) - 1

    @property
    def renderer(self) -> Renderer:
        """tinker-cookbook's, or the tokenizer's own."""
        return self.base.renderer

    @property
    def warnings(self) -> tuple[str, ...]:
        """That the model thinks before it answers, where its renderer has no mode without."""
        renderer = self.base.renderer
        if not isinstance(renderer, CookbookRenderer) or not renderer.thinks:
            return ()
        return (
            f"the renderer {renderer.name} lets it think before it answers; thoughts count towards "
            "max_tokens, are left out of the data, and the adapter learns to answer without them",
        )

    @cached_property
    def _sampler(self) -> tinker.SamplingClient:
        return self._given or self.base.sampler(self.uri)

    def sample(
        self,
        prompts: Sequence[TokenIds],
        *,
        max_tokens: int,
        temperatures: Sequence[float],
        seeds: Sequence[int],
        progress: Callable[[float], None] = no_progress,
    ) -> Iterator[tuple[int, Completion]]:
        """Sample a response to each prompt, in order of arrival."""
        renderer = self.base.renderer
        stops = getattr(renderer, "stops", None) or sorted(renderer.stop_ids)

        def submit(index: int) -> Any:
            params = tinker.SamplingParams(
                max_tokens=max_tokens,
                temperature=temperatures[index],
                seed=seeds[index] % SEEDS,
                stop=stops,
            )
            return self._sampler.sample(_input(prompts[index]), 1, params)

        def read(index: int, answer: Any) -> Completion:
            (sequence,) = answer.sequences
            tokens = tuple(int(token) for token in sequence.tokens)
            calls.commit(index, answer, sampled=len(tokens))
            complete = sequence.stop_reason == "stop"
            if complete and tokens and tokens[-1] in self.renderer.stop_ids:
                tokens = tokens[:-1]
            return Completion(tokens, complete)

        calls = Calls(self.base, "sample", [(len(prompt), max_tokens) for prompt in prompts])
        return calls.run(submit, read, lambda index: f"response {index + 1}")

    def stream(
        self, prompt: TokenIds, *, max_tokens: int, temperature: float, seed: int
    ) -> Iterator[StreamChunk]:
        """Sample a response, in one chunk: the service does not stream."""
        completions = self.sample(
            [prompt], max_tokens=max_tokens, temperatures=[temperature], seeds=[seed]
        )
        for _, completion in completions:
            yield StreamChunk(completion.tokens, "stop" if completion.complete else "length")

    def top_k(
        self, spans: Sequence[Span], *, k: int, draws: int, seeds: Sequence[int]
    ) -> Iterator[tuple[int, TeacherLogprobs]]:
        """Score the top K and the draws, by one call a span.

        `prompt_alt_tokens_k` draws `draws` tokens from the whole distribution.
        """

        def submit(index: int) -> Any:
            return self._sampler.sample(
                _input(spans[index].tokens),
                1,
                tinker.SamplingParams(max_tokens=1, temperature=1.0, seed=seeds[index] % SEEDS),
                include_prompt_logprobs=True,
                topk_prompt_logprobs=k,
                prompt_alt_tokens_k=draws,
                prompt_logprobs_last_n=spans[index].n_response,
            )

        def read(index: int, answer: Any) -> TeacherLogprobs:
            calls.commit(index, answer, sampled=1)
            ids, logprobs = answers.top_k(answer, spans[index], k)
            if draws:
                drawn = answers.alternatives(answer, spans[index])
            else:
                nothing = torch.zeros(len(ids), 0)
                drawn = nothing.long(), nothing, nothing
            return TeacherLogprobs(ids, logprobs, *mask_top_k_draws(ids, *drawn))

        calls = Calls(self.base, "top_k", [(len(span.tokens), 1) for span in spans])
        results = calls.run(submit, read, lambda index: answers.describe(spans[index]))
        try:
            yield from results
        except RefusalError as error:
            if not draws:
                raise
            raise RefusalError(f"{error}; train.tail=bucket asks for no draws") from None

    def logprobs(
        self, spans: Sequence[Span], ids: Sequence[Tensor] | None = None
    ) -> Iterator[Tensor]:
        """Log-probabilities [N, K] of the given ids, in the order of the spans."""
        if ids is None:
            raise ValueError("Tinker scores given token ids only")
        for span in spans:
            if len(span.tokens) > self.context_tokens:
                raise BakeError(
                    f"{answers.describe(span)}: {len(span.tokens)} tokens do not fit the context "
                    f"of {self.name}, {self.context_tokens}"
                )
        yield from score(self.base, lambda: self._sampler, self._training, list(spans), list(ids))

    @cached_property
    def _training_client(self) -> tinker.TrainingClient:
        assert self._open_training is not None
        return self._open_training()

    @property
    def _training(self) -> OpenTraining | None:
        return (lambda: self._training_client) if self._open_training else None

    def estimate_cost(self, work: WorkItem) -> CostEstimate:
        """Estimate dollars by the price table, and seconds by the latency model."""
        prices = self.base.prices
        usage = _usage(work, self.base.settings.datum_layout)
        return CostEstimate(
            self.base.priced(usage),
            prices is not None,
            self.base.latency.seconds(work, self.base.settings.calls_in_flight),
            prices.source if prices else "",
        )


def digest_of(name: str) -> str:
    """A model's digest: the service keeps the weights, so all that is known is the name."""
    return f"tinker:{name}"


def _usage(work: WorkItem, layout: DatumLayout) -> Usage:
    rows = len(work.rows) * work.times
    n_input = sum(row[0] for row in work.rows) * work.times
    if isinstance(work, TrainWork):
        datums = work.support if layout == "per_token" else 1
        trained = (n_input - rows) * datums  # the last token of a row has no target
        return Usage(
            work.steps, input_tokens=trained if work.forward_first else 0, train_tokens=trained
        )
    # The service draws at every position of a prompt, so no part of it is read from the cache.
    draws = isinstance(work, TopKWork) and work.draws
    cached = 0 if draws else work.shared * max(len(work.rows) - 1, 0) * work.times
    sampled = sum(row[1] for row in work.rows) * work.times
    return Usage(rows, n_input - cached, cached, sampled if isinstance(work, SampleWork) else rows)


def _input(tokens: TokenIds) -> tinker.ModelInput:
    return tinker.ModelInput.from_ints(list(tokens))
