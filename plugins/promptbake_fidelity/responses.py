"""Responses that an arm samples, each stored as it arrives."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

from promptbake import (
    Arm,
    BakeError,
    Completion,
    Conversation,
    CostEstimate,
    EvalContext,
    MeasurementStore,
    Message,
    Model,
    SampleWork,
    TokenIds,
    derive,
)
from promptbake_fidelity.progress import Part
from promptbake_fidelity.store import weights_of

SPREAD = 1.5  # the longest prompt of a batch over its shortest: the shorter ones are padded

Turns = tuple[Message, ...]


@dataclass(frozen=True)
class Sampling:
    """How an evaluator samples: temperature 0 is greedy."""

    evaluator: str  # its name
    max_tokens: int
    temperature: float


def sample_responses(
    context: EvalContext,
    arm: Arm,
    queries: Mapping[str, Turns],
    sampling: Sampling,
    store: MeasurementStore,
    part: Part,
) -> list[Conversation]:
    """An arm's responses to the queries, by the queries' ids, in their order.

    A response's random numbers depend on the seed and the query's id. What is in the store is not
    sampled again. A response without any text counts as complete, so that it has a token to score.

    Raises:
        BakeError: A query and its response do not fit into the model's context.
    """
    model, system = context.arms[arm].open_model(), context.arms[arm].system
    prompts = [model.renderer.prompt(turns, system) for turns in queries.values()]
    for id_, prompt in zip(queries, prompts, strict=True):
        _check_room(model, id_, len(prompt), sampling)
    seeds = [derive(context.seed, sampling.evaluator, id_) for id_ in queries]
    weights, completions = weights_of(context, arm), dict[int, Completion]()
    for batch in _batches(prompts, model.sample_batch):
        rows = [(prompts[index], seeds[index]) for index in batch]
        sampled = _sample_batch(model, rows, weights, sampling, store, part)
        completions |= zip(batch, sampled, strict=True)
    part.finish()
    return [
        _conversation(model, id_, turns, completions[index])
        for index, (id_, turns) in enumerate(queries.items())
    ]


def sampling_cost(
    context: EvalContext, arm: Arm, lengths: Sequence[int], max_tokens: int
) -> CostEstimate:
    """What it would cost, with prompts of these lengths and every response at `max_tokens`."""
    model = context.arms[arm].open_model()
    return model.estimate_cost(SampleWork(tuple((length, max_tokens) for length in lengths)))


def _sample_batch(
    model: Model,
    rows: Sequence[tuple[TokenIds, int]],
    weights: str,
    sampling: Sampling,
    store: MeasurementStore,
    part: Part,
) -> list[Completion]:
    """The responses to one batch of (prompt, seed): all of it is sampled where one is missing.

    Only where a response depends on no other row are the missing ones sampled alone.
    """
    depends_on: dict[str, object] = {"weights": weights, "max_tokens": sampling.max_tokens}
    depends_on["temperature"] = sampling.temperature
    if model.sample_batch is not None:
        depends_on["batch"] = store.key(rows=rows, size=model.sample_batch)
    keys = [store.key(prompt=prompt, seed=seed, **depends_on) for prompt, seed in rows]
    missing = [index for index, key in enumerate(keys) if store.completion(key) is None]
    if missing and model.sample_batch is not None:
        missing = list(range(len(rows)))
    if missing:
        sampled = model.sample(
            [rows[index][0] for index in missing],
            max_tokens=sampling.max_tokens,
            temperatures=[sampling.temperature] * len(missing),
            seeds=[rows[index][1] for index in missing],
            progress=part.advance,
        )
        store.put_completions((keys[missing[row]], completion) for row, completion in sampled)
    return list(_stored(store, keys))


def _stored(store: MeasurementStore, keys: Sequence[str]) -> Iterator[Completion]:
    for key in keys:
        completion = store.completion(key)
        if completion is None:
            raise ValueError("the model has returned no response to one of its prompts")
        yield completion


def _conversation(model: Model, id_: str, turns: Turns, completion: Completion) -> Conversation:
    text = model.renderer.text(completion.tokens)
    complete = completion.complete or not text
    return Conversation(id_, id_, (*turns, Message("assistant", text)), complete)


def _batches(prompts: Sequence[TokenIds], size: int | None) -> list[list[int]]:
    """The prompts' indices by call: one call, or batches of prompts of much the same length."""
    if size is None:
        return [list(range(len(prompts)))]
    batches: list[list[int]] = []
    for index in sorted(range(len(prompts)), key=lambda index: len(prompts[index])):
        shortest = len(prompts[batches[-1][0]]) if batches else 0
        if not shortest or len(batches[-1]) == size or len(prompts[index]) > SPREAD * shortest:
            batches.append([])
        batches[-1].append(index)
    return batches


def _check_room(model: Model, id_: str, length: int, sampling: Sampling) -> None:
    needed = length + sampling.max_tokens
    if needed > model.context_tokens:
        option = f"options.evaluators.{sampling.evaluator}"
        raise BakeError(
            f"evaluator {sampling.evaluator}: {id_} takes {needed} tokens with its prompt and its "
            f"response, and the context of {model.name} holds {model.context_tokens}; lower "
            f"{option}.max_tokens, choose fewer items (`promptbake plugins` lists its options), or "
            "leave it out of verify.evaluators"
        )
