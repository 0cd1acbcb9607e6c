"""The judge at work: sends the comparisons, stores each reply, scores the questions."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any

from promptbake import (
    BakeError,
    Conversation,
    CostEstimate,
    DataProvider,
    EvalContext,
    GenerationJob,
    GenerationRequest,
    Measurement,
    MeasurementStore,
    Message,
    Prompt,
    Query,
    SampledAnswer,
    read_text,
)
from promptbake_judge.comparison import LOSS, TIE, WIN, Comparison, both_orders, read_verdict, score

UNIT = "share of questions"
OUTCOMES = {"judge.wins": WIN, "judge.ties": TIE, "judge.losses": LOSS}
ASSUMED_ANSWER = "x" * 2_000  # bytes of an answer that is not there yet, for an estimate


class Judge:
    """Compares the answers of the arms baked and prompted, question by question.

    Args:
        provider: Asks the judging model.
        rubric: The file of its instructions.
        model: Its name.
        max_tokens: Of a reply.
        body: What else its replies depend on.
    """

    def __init__(
        self,
        provider: DataProvider,
        rubric: Path,
        model: str,
        max_tokens: int,
        body: Mapping[str, Any],
    ) -> None:
        self._provider, self._file, self._max_tokens = provider, rubric, max_tokens
        self._depends_on: dict[str, object] = {"model": model, "body": dict(body)}

    @cached_property
    def _rubric(self) -> Prompt:
        text = read_text(self._file).strip()
        if not text:
            raise BakeError(f"{self._file}: the rubric is empty; write what the judge is to do")
        return Prompt("rubric", text)

    def estimate_cost(self, context: EvalContext) -> CostEstimate:
        """Two requests a question, with 2,000 bytes in place of each text that is not there yet."""
        questions = [
            Query(f"question-{number}", (Message("user", ASSUMED_ANSWER),))
            for number in range(context.questions)
        ]
        pairs = [
            each
            for question in questions
            for each in both_orders(question, ASSUMED_ANSWER, ASSUMED_ANSWER)
        ]
        return self._provider.estimate_cost(self._job(context, pairs))

    def evaluate(self, context: EvalContext) -> Sequence[Measurement]:
        """`judge.baked_wins` has 1, 0.5 or 0 a question; wins, ties and losses are counted as well.

        Equal answers are a tie, and are not sent. A question that the judge gave no verdict on is
        left out, and such questions are counted.
        """
        pairs = {
            each.query.id: both_orders(each.query, each.texts["baked"], each.texts["prompted"])
            for each in context.answers
            if {"baked", "prompted"} <= each.texts.keys()
        }
        replies = self._replies(context, pairs)
        scores = {
            question: value
            for question, pair in pairs.items()
            if (value := _score(pair, replies)) is not None
        }
        if left_out := len(pairs) - len(scores):
            context.say(
                f"judge: gave no verdict (A, B or tie) on {left_out} of {len(pairs)} questions, "
                "which are left out"
            )
        by_outcome = {
            name: {question: float(value == outcome) for question, value in scores.items()}
            for name, outcome in OUTCOMES.items()
        }
        return [
            Measurement("judge.baked_wins", UNIT, {"baked": scores}, "higher"),
            *(Measurement(name, UNIT, {"baked": each}) for name, each in by_outcome.items()),
        ]

    def _replies(
        self, context: EvalContext, pairs: Mapping[str, tuple[Comparison, Comparison]]
    ) -> dict[str, str]:
        """The reply to each comparison that has one, by the comparison's id."""
        path = context.cache / "replies.jsonl" if context.cache is not None else None
        store = MeasurementStore(path, context.say, anew=context.anew)
        asked = [each for pair in pairs.values() for each in pair if each.first != each.second]
        keys = {each.id: self._key(store, context, each) for each in asked}
        missing = [each for each in asked if store.answer(keys[each.id]) is None]
        if missing:
            job = self._job(context, missing)
            store.put_answers(
                (keys[query], SampledAnswer(text))
                for query, text in self._ask(context, job, len(missing))
            )
        replies = {id_: store.answer(key) for id_, key in keys.items()}
        return {id_: reply.text for id_, reply in replies.items() if reply is not None}

    def _ask(
        self, context: EvalContext, job: GenerationJob, count: int
    ) -> Iterator[tuple[str, str]]:
        """The replies as they come; a rejected one is none."""
        for result in self._provider.generate(job):
            if isinstance(result, Conversation):
                yield result.query_id, result.response
            context.progress(1 / count)

    def _key(self, store: MeasurementStore, context: EvalContext, comparison: Comparison) -> str:
        query = comparison.query(context.prompt)
        return store.key(
            rubric=self._rubric.text,
            text=query.messages[0].content,
            max_tokens=self._max_tokens,
            **self._depends_on,
        )

    def _job(self, context: EvalContext, comparisons: Sequence[Comparison]) -> GenerationJob:
        requests = (
            GenerationRequest(each.id, each.query(context.prompt), temperature=0.0)
            for each in comparisons
        )
        return GenerationJob(
            prompt=self._rubric,
            requests=tuple(requests),
            completed_ids=frozenset(),
            max_tokens=self._max_tokens,
            seed=context.seed,
            open_model=context.arms["base"].open_model,
            budget=context.budget,
        )


def _score(pair: tuple[Comparison, Comparison], replies: Mapping[str, str]) -> float | None:
    """None where a reply is missing, or holds no verdict."""
    first, second = pair
    if first.first == first.second:
        return TIE
    verdicts = [read_verdict(replies.get(each.id, "")) for each in (first, second)]
    if verdicts[0] is None or verdicts[1] is None:
        return None
    return score(verdicts[0], verdicts[1])
