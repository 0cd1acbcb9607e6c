"""The evaluator `judge`: verdicts by hand, the loopback endpoint as the judge, the suite."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from fake_openai import KEY, ChatEndpoint

from promptbake import BakeError, BudgetError, EvalContext, Evaluator, Measurement
from promptbake.testing import EvaluatorSuite, RecordingBudget
from promptbake.testing.contexts import context
from promptbake_judge import judge
from promptbake_judge.comparison import read_verdict, score

pytestmark = pytest.mark.usefixtures("openai_key")
PRICES = {"prompt": 0.15, "completion": 0.6}
PARTS = re.compile(r"<<< answer A >>>\n(.*)\n\n<<< answer B >>>\n(.*)\n\n<<< end >>>", re.S)


def shown(request: dict[str, Any]) -> tuple[str, str]:
    """The two answers, in the order in which the judge reads them."""
    found = PARTS.search(request["messages"][-1]["content"])
    assert found
    return found[1], found[2]


def prefers_pirates(request: dict[str, Any]) -> str:
    """A judge that likes "Arr", and says so in a sentence."""
    first, second = ("Arr" in each for each in shown(request))
    return "tie" if first == second else f"It is **{'A' if first else 'B'}**."


@pytest.fixture
def endpoint() -> Iterator[ChatEndpoint]:
    with ChatEndpoint(key=KEY, answer=prefers_pirates) as served:
        yield served


class TestJudge(EvaluatorSuite):
    contrasting_answers = ("Arr, the moon!", "The moon.")
    measured_arms = ("baked",)
    compared_with = ("prompted",)
    paid = True

    @pytest.fixture
    def evaluator(self, endpoint: ChatEndpoint) -> Evaluator:
        return judge(model="tiny-chat", base_url=endpoint.url, prices=PRICES)


@pytest.mark.parametrize(
    ("first", "second", "expected"),
    [("A", "B", 1.0), ("B", "A", 0.0), ("A", "A", 0.5), ("B", "B", 0.5), ("tie", "tie", 0.5),
     ("A", "tie", 0.5), ("tie", "A", 0.5)],
)  # fmt: skip
def test_a_pair_is_won_where_both_orders_say_so(first: Any, second: Any, expected: float) -> None:
    assert score(first, second) == expected


@pytest.mark.parametrize(
    ("reply", "verdict"),
    [("A", "A"), (" b.", None), ("**B**", "B"), ("Tie.", "tie"), ("A is better than B: A", "A"),
     ("A is fine, but B.", "B"), ("Both are bad", None), ("", None)],
)  # fmt: skip
def test_the_last_verdict_of_a_reply_counts(reply: str, verdict: str | None) -> None:
    assert read_verdict(reply) == verdict


def answers(*pairs: tuple[str, str], **fields: Any) -> EvalContext:
    """Questions with the baked and the prompted answer to each."""
    return context(*({"baked": baked, "prompted": prompted} for baked, prompted in pairs), **fields)


def judged(
    answer: Callable[[dict[str, Any]], str], given: EvalContext, **options: Any
) -> tuple[dict[str, Measurement], list[dict[str, Any]]]:
    """The measurements by name, and the requests that were sent."""
    requests: list[dict[str, Any]] = []

    def record(request: dict[str, Any]) -> str:
        requests.append(request)
        return answer(request)

    with ChatEndpoint(key=KEY, answer=record) as served:
        evaluator = judge(model="tiny-chat", base_url=served.url, max_retries=0, **options)
        return {each.name: each for each in evaluator.evaluate(given)}, requests


def test_wins_ties_and_losses_are_scores_by_question() -> None:
    given = answers(("Arr!", "Yes."), ("Yes.", "Arr!"), ("Same.", "Same."))
    found, requests = judged(prefers_pirates, given)
    scores = {name: list(each.scores["baked"].values()) for name, each in found.items()}
    assert scores == {
        "judge.baked_wins": [1.0, 0.0, 0.5],
        "judge.wins": [1.0, 0.0, 0.0],
        "judge.ties": [0.0, 0.0, 1.0],
        "judge.losses": [0.0, 1.0, 0.0],
    }
    assert len(requests) == 4  # equal answers are not sent
    assert {shown(each) for each in requests} == {("Arr!", "Yes."), ("Yes.", "Arr!")}


def test_a_judge_that_prefers_a_place_gives_ties() -> None:
    found, _ = judged(lambda request: "A", answers(("Arr!", "Yes."), ("Yes.", "No.")))
    assert list(found["judge.baked_wins"].scores["baked"].values()) == [0.5, 0.5]


def test_the_judge_reads_rubric_prompt_and_question_and_not_whose_answers_they_are() -> None:
    given = answers(("Arr!", "Yes."))
    _, (first, second) = judged(prefers_pirates, given)
    for request in (first, second):
        system, user = (message["content"] for message in request["messages"])
        assert "Reply with one word" in system
        assert given.prompt.text in user
        assert given.answers[0].query.messages[-1].content in user
        assert not re.search("baked|prompted|promptbake", system + user)
        assert request["temperature"] == 0


def test_a_question_without_a_verdict_is_left_out_and_counted() -> None:
    said: list[str] = []
    given = answers(("Arr!", "Yes."), ("Same.", "Same."), say=said.append)
    found, _ = judged(lambda request: "Hard to say.", given)
    assert list(found["judge.baked_wins"].scores["baked"].values()) == [0.5]
    assert said == ["judge: gave no verdict (A, B or tie) on 1 of 2 questions, which are left out"]


def test_replies_are_kept_by_what_they_depend_on(tmp_path: Path) -> None:
    given = answers(("Arr!", "Yes."), ("Yes.", "Arr!"), cache=tmp_path / "judge")
    rubric = tmp_path / "rubric.md"
    rubric.write_text("Say A, B or tie.")
    before, requests = judged(prefers_pirates, given)
    assert len(requests) == 4
    again, requests = judged(prefers_pirates, given)
    assert (again, requests) == (before, [])
    _, requests = judged(
        prefers_pirates, answers(("Arr!", "Yes."), ("Ye.", "Arr!"), cache=given.cache)
    )
    assert len(requests) == 2  # the one answer that changed
    for other in ({"rubric": rubric}, {"max_tokens": 8}, {"body": {"top_p": 0.5}}):
        assert len(judged(prefers_pirates, given, **other)[1]) == 4
    assert len(judged(prefers_pirates, replace(given, anew=True))[1]) == 4


def test_what_was_paid_for_before_the_budget_ended_is_kept(tmp_path: Path) -> None:
    pairs = [("Arr!", "Yes."), ("Yes.", "Arr!")]
    cache = tmp_path / "judge"
    given = answers(*pairs, cache=cache, budget=RecordingBudget(refuses_after=2))
    with pytest.raises(BudgetError):
        judged(prefers_pirates, given, prices=PRICES, concurrency=1)
    _, requests = judged(prefers_pirates, answers(*pairs, cache=cache), prices=PRICES)
    assert len(requests) == 2


def test_an_empty_rubric_is_refused(tmp_path: Path) -> None:
    (tmp_path / "rubric.md").write_text(" \n")
    with pytest.raises(BakeError, match=r"rubric\.md: the rubric is empty"):
        judged(prefers_pirates, answers(("Arr!", "Yes.")), rubric=tmp_path / "rubric.md")
