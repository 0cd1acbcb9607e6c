"""Faulty samples and streams of a backend's model."""

from __future__ import annotations

import itertools
from collections.abc import Callable
from dataclasses import replace
from typing import Any

from faulty_suites import suite_for, suites_for
from toy_backend import (
    END,
    Model,
    SamplesWell,
    Toy,
    ToySuite,
    after,
    backend_with,
    faults,
    passing,
)

from promptbake.types import StreamChunk

COUNT = itertools.count()

# --- sampling


def sampling(**changes: Callable[[Any], Any]) -> dict[str, Any]:
    """Samples with other arguments."""
    return {"sample": passing(Model.sample, **changes)}


def heat(change: Callable[[float], float]) -> dict[str, Any]:
    """Samples at other temperatures."""
    return sampling(temperatures=lambda temperatures: list(map(change, temperatures)))


def responses(change: Callable[..., Any]) -> dict[str, Any]:
    """Each response is another."""
    return {"sample": after(Model.sample, lambda self, good: ((i, change(r)) for i, r in good))}


def take_small_seeds(seeds: Any) -> Any:
    """As numpy's old generators do."""
    if max(seeds, default=0) >= 2**32:
        raise ValueError("Seed must be between 0 and 2**32 - 1")
    return seeds


def seed_by_the_first(seeds: Any) -> Any:
    return [seeds[0] % 2**32 + row for row in range(len(seeds))]


def report_all_progress(self: Any, prompts: Any, *, progress: Any = abs, **how: Any) -> Any:
    for done, each in enumerate(Model.sample(self, prompts, **how), 1):
        progress(done)
        yield each


SAMPLING = [
    *faults(
        "test_every_prompt_gets_one_response",
        counts_in_each_batch={
            "sample_batch": 8,
            "sample": after(Model.sample, lambda self, good: ((i % 8, each) for i, each in good)),
        },
        reports_all_progress_each_time={"sample": report_all_progress},
    ),
    *faults(
        "test_the_same_seeds_give_the_same_again",
        samples_without_seeds=sampling(seeds=lambda seeds: [next(COUNT) for _ in seeds]),
        takes_small_seeds=sampling(seeds=take_small_seeds),
    ),
    *faults(
        "test_each_row_has_its_own_seed",
        has_one_seed_for_all=sampling(seeds=lambda seeds: seeds[:1] * len(seeds)),
        seeds_by_the_first=sampling(seeds=seed_by_the_first),
    ),
    *faults(
        "test_a_batch_gets_the_same_responses_whatever_else_is_sampled",
        says_that_rows_are_independent=sampling(seeds=seed_by_the_first),
        samples_a_batch_by_what_came_before={
            "sample_batch": 2,
            **sampling(seeds=lambda seeds: [each + next(COUNT) for each in seeds]),
        },
    ),
    *faults(
        "test_tokens_are_as_frequent_as_they_are_probable",
        ignores_the_temperature=heat(lambda each: 1.0 if each else 0.0),
        multiplies_by_the_temperature=heat(lambda each: 1 / each if each else 0.0),
        sharpens_the_temperature=heat(lambda each: 0.6 * each),
    ),
    *faults("test_temperature_zero_is_greedy", takes_zero_for_one=heat(lambda each: each or 1.0)),
    *faults(
        "test_each_row_has_its_own_temperature",
        is_always_greedy=heat(lambda each: 0.0),
        has_one_temperature_for_all=sampling(
            temperatures=lambda given: [max(given, default=0.0)] * len(given)
        ),
    ),
    *faults(
        "test_a_response_that_is_cut_is_not_complete",
        is_always_complete=responses(lambda each: replace(each, complete=True)),
        drops_the_last_token=responses(lambda each: replace(each, tokens=each.tokens[:-1])),
    ),
    *faults(
        "test_a_turn_that_ends_is_complete",
        is_never_complete=responses(lambda each: replace(each, complete=False)),
        keeps_the_stop_token=responses(
            lambda each: replace(each, tokens=each.tokens + (END,) * each.complete)
        ),
    ),
]

# --- streams


def streaming(**changes: Callable[[Any], Any]) -> dict[str, Any]:
    """Streams with other arguments."""
    return {"stream": passing(Model.stream, **changes)}


def chunks(change: Callable[[list[StreamChunk]], Any]) -> dict[str, Any]:
    """Streams other chunks."""
    return {"stream": after(Model.stream, lambda self, good: change(list(good)))}


def giving_for(reason: str | None, other: str) -> dict[str, Any]:
    """Gives another reason to stop for one, or for none."""
    return chunks(
        lambda good: [replace(c, stop_reason=other) if c.stop_reason == reason else c for c in good]
    )


def stream_past_the_end(self: Any, prompt: Any, *, max_tokens: int, **how: Any) -> Any:
    for _ in range(max_tokens):
        (chunk, *_) = Model.stream(self, prompt, max_tokens=1, **how)
        tokens = chunk.tokens or (END,)
        prompt += tokens
        yield StreamChunk(tokens)
    yield StreamChunk(stop_reason="length")


STREAMING = [
    *faults(
        "test_a_stream_is_a_response_in_chunks",
        streams_without_a_seed=streaming(seed=lambda _: next(COUNT)),
        streams_by_one_seed=streaming(seed=lambda _: 0),
        streams_at_one_temperature=streaming(temperature=lambda _: 1.0),
        streams_a_token_more=streaming(max_tokens=lambda most: most + 1),
        streams_token_ids=chunks(lambda good: [t for chunk in good for t in chunk.tokens]),
        streams_no_reason_to_stop=chunks(lambda good: good[:-1]),
        gives_a_reason_in_each_chunk=giving_for(None, "length"),
        says_that_a_cut_stream_has_ended=giving_for("length", "stop"),
        has_a_reason_of_its_own=giving_for("length", "max_tokens"),
    ),
    *faults(
        "test_a_turn_that_ends_is_complete",
        streams_past_its_end={"stream": stream_past_the_end},
        says_that_an_ended_stream_was_cut=giving_for("stop", "length"),
    ),
]
FAULTS = [
    *(replace(fault, base=Model) for fault in SAMPLING),
    *(replace(fault, base=SamplesWell) for fault in STREAMING),
]

globals().update(suites_for(ToySuite, "backend", Toy, FAULTS, backend_with))
TestGood = suite_for(ToySuite, "backend", lambda: backend_with(SamplesWell))
