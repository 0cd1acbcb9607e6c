"""Faulty sampling. Run by test_faulty_plugins.py, which expects each to be caught."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from typing import Any

import torch
from faulty_suites import suites_for
from toy_backend import Toy, backend_of

from promptbake.interfaces import no_progress
from promptbake.testing.backends.samples import SampleTests
from promptbake.types import Completion, TokenIds
from promptbake_torch.model import TorchModel


class FaultySamples(TorchModel):
    def sample(
        self,
        prompts: Sequence[TokenIds],
        *,
        max_tokens: int,
        temperatures: Sequence[float],
        seeds: Sequence[int],
        progress: Callable[[float], None] = no_progress,
    ) -> Iterator[tuple[int, Completion]]:
        found = super().sample(
            prompts,
            max_tokens=max_tokens,
            temperatures=self.heat(temperatures),
            seeds=self.seeds(seeds),
            progress=progress,
        )
        return ((index, self.faulty(one)) for index, one in found)

    def heat(self, temperatures: Sequence[float]) -> Sequence[float]:
        return temperatures

    def seeds(self, seeds: Sequence[int]) -> Sequence[int]:
        return seeds

    def faulty(self, found: Completion) -> Completion:
        return found


class CountsInEachBatch(TorchModel):
    def sample(self, prompts: Sequence[TokenIds], **how: Any) -> Iterator[tuple[int, Completion]]:
        found = super().sample(prompts, **how)
        return ((index % self.sample_batch, one) for index, one in found)


class TellsProgressInAll(TorchModel):
    def sample(
        self,
        prompts: Sequence[TokenIds],
        progress: Callable[[float], None] = no_progress,
        **how: Any,
    ) -> Iterator[tuple[int, Completion]]:
        for done, pair in enumerate(super().sample(prompts, **how), 1):
            progress(done)
            yield pair


class Unseeded(FaultySamples):
    def seeds(self, seeds: Sequence[int]) -> Sequence[int]:
        return [int(torch.randint(2**31, (1,))) for _ in seeds]


class TakesSmallSeeds(FaultySamples):
    """As numpy's old generators do."""

    def seeds(self, seeds: Sequence[int]) -> Sequence[int]:
        if max(seeds, default=0) >= 2**32:
            raise ValueError("Seed must be between 0 and 2**32 - 1")
        return seeds


class OneSeedForAll(FaultySamples):
    def seeds(self, seeds: Sequence[int]) -> Sequence[int]:
        return [seeds[0]] * len(seeds) if seeds else []


class SeedsByTheFirst(FaultySamples):
    def seeds(self, seeds: Sequence[int]) -> Sequence[int]:
        return [seeds[0] % 2**32 + row for row in range(len(seeds))]


class SaysThatCompanyDoesNotMatter(SeedsByTheFirst):
    """And it does."""

    @property
    def sample_batch(self) -> None:
        return None

    @sample_batch.setter
    def sample_batch(self, value: int) -> None:
        pass

    def sample(self, prompts: Sequence[TokenIds], **how: Any) -> Iterator[tuple[int, Completion]]:
        inner = SeedsByTheFirst(self.engine, self.adapter, 8)
        return inner.sample(prompts, **how)


class IgnoresTheTemperature(FaultySamples):
    def heat(self, temperatures: Sequence[float]) -> Sequence[float]:
        return [1.0 if each else 0.0 for each in temperatures]


class MultipliesByTheTemperature(FaultySamples):
    def heat(self, temperatures: Sequence[float]) -> Sequence[float]:
        return [1 / each if each else 0.0 for each in temperatures]


class OneTemperatureForAll(FaultySamples):
    def heat(self, temperatures: Sequence[float]) -> Sequence[float]:
        return [max(temperatures, default=0.0)] * len(temperatures)


class ZeroIsOne(FaultySamples):
    def heat(self, temperatures: Sequence[float]) -> Sequence[float]:
        return [each or 1.0 for each in temperatures]


class AlwaysGreedy(FaultySamples):
    def heat(self, temperatures: Sequence[float]) -> Sequence[float]:
        return [0.0] * len(temperatures)


class SharpensTheTemperature(FaultySamples):
    def heat(self, temperatures: Sequence[float]) -> Sequence[float]:
        return [0.6 * each for each in temperatures]


class AlwaysComplete(FaultySamples):
    def faulty(self, found: Completion) -> Completion:
        return replace(found, complete=True)


class NeverComplete(FaultySamples):
    def faulty(self, found: Completion) -> Completion:
        return replace(found, complete=False)


class KeepsTheStopToken(FaultySamples):
    def faulty(self, found: Completion) -> Completion:
        stop = (min(self.renderer.stop_ids),) if found.complete else ()
        return replace(found, tokens=found.tokens + stop)


class DropsTheLastToken(FaultySamples):
    def faulty(self, found: Completion) -> Completion:
        return replace(found, tokens=found.tokens[:-1])


class FaultyStream(TorchModel):
    def stream(
        self, prompt: TokenIds, *, max_tokens: int, temperature: float, seed: int
    ) -> Iterator[int]:
        how = self.faulty({"max_tokens": max_tokens, "temperature": temperature, "seed": seed})
        return super().stream(prompt, **how)

    def faulty(self, how: dict[str, Any]) -> dict[str, Any]:
        return how


class StreamsWithoutASeed(FaultyStream):
    def faulty(self, how: dict[str, Any]) -> dict[str, Any]:
        return how | {"seed": int(torch.randint(2**31, (1,)))}


class StreamsAtOneTemperature(FaultyStream):
    def faulty(self, how: dict[str, Any]) -> dict[str, Any]:
        return how | {"temperature": 1.0}


class StreamsPastItsEnd(TorchModel):
    def stream(
        self, prompt: TokenIds, *, max_tokens: int, temperature: float, seed: int
    ) -> Iterator[int]:
        found = self._decode([prompt], max_tokens, [temperature], [seed])
        return itertools.chain.from_iterable(found)


SPOILT = {
    CountsInEachBatch: "test_every_prompt_gets_one_response",
    TellsProgressInAll: "test_every_prompt_gets_one_response",
    Unseeded: "test_the_same_seeds_give_the_same_again",
    TakesSmallSeeds: "test_the_same_seeds_give_the_same_again",
    OneSeedForAll: "test_each_row_has_its_own_seed",
    SeedsByTheFirst: "test_each_row_has_its_own_seed",
    SaysThatCompanyDoesNotMatter: "test_an_answer_does_not_depend_on_its_company",
    IgnoresTheTemperature: "test_tokens_are_as_frequent_as_they_are_probable",
    MultipliesByTheTemperature: "test_tokens_are_as_frequent_as_they_are_probable",
    SharpensTheTemperature: "test_tokens_are_as_frequent_as_they_are_probable",
    OneTemperatureForAll: "test_each_row_has_its_own_temperature",
    ZeroIsOne: "test_temperature_zero_is_greedy",
    AlwaysGreedy: "test_each_row_has_its_own_temperature",
    AlwaysComplete: "test_a_response_that_is_cut_is_not_complete",
    NeverComplete: "test_a_turn_that_ends_is_complete",
    KeepsTheStopToken: "test_a_turn_that_ends_is_complete",
    DropsTheLastToken: "test_a_response_that_is_cut_is_not_complete",
    StreamsWithoutASeed: "test_a_stream_is_a_response_token_by_token",
    StreamsAtOneTemperature: "test_a_stream_is_a_response_token_by_token",
    StreamsPastItsEnd: "test_a_turn_that_ends_is_complete",
}
MODELS = {backend_of(model): caught_by for model, caught_by in SPOILT.items()}

globals().update(suites_for(SampleTests, "backend", Toy, MODELS))
