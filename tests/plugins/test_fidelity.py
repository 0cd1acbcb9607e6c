"""shift, drift, retention and extraction: by hand on written distributions, and by their suites."""

from __future__ import annotations

import math
from collections import Counter
from dataclasses import replace
from pathlib import Path
from typing import Any, get_args

import pytest
from byte_model import ByteModel, by_prompt, shares

from promptbake import ARMS, Arm, BakeError, EvalArm, EvalContext, Evaluator, Measurement, Prompt
from promptbake.dataset.queries import load_queries
from promptbake.testing import EvaluatorSuite
from promptbake_fidelity import ShiftSet, drift, extraction, retention, shift
from promptbake_fidelity.items import Choice, Passage, Request, Script, ShiftItem, read
from promptbake_fidelity.recitation import longest_span, overlap, words

PROMPTED, BARE = shares(a=0.5, b=0.25, c=0.25), shares(a=0.25, b=0.5, c=0.25)
KL = 0.25 * math.log(2)  # of PROMPTED and BARE: 1/2 log 2 - 1/4 log 2, and the same the other way
EVALUATORS = {"shift": shift, "drift": drift, "retention": retention, "extraction": extraction}


class TestShift(EvaluatorSuite):
    measured_arms = ("base", "baked")
    compared_with = ("prompted",)

    @pytest.fixture
    def evaluator(self) -> Evaluator:
        return shift(sets=("code", "turn_4"), items=1, max_tokens=6)


class TestDrift(EvaluatorSuite):
    measured_arms = ("base", "baked")
    compared_with = ("prompted",)

    @pytest.fixture
    def evaluator(self) -> Evaluator:
        return drift(items=1, max_tokens=4)


class TestRetention(EvaluatorSuite):
    measured_arms = ("prompted", "baked")
    compared_with = ("base",)

    @pytest.fixture
    def evaluator(self) -> Evaluator:
        return retention(items=1)


class TestExtraction(EvaluatorSuite):
    measured_arms = ("base", "prompted", "baked")

    @pytest.fixture
    def evaluator(self) -> Evaluator:
        return extraction(items=1, max_tokens=6)

    @pytest.mark.xfail(reason="the suite's model says no word of any prompt, so each arm scores 0")
    def test_an_arm_that_differs_has_other_scores(self, evaluator: Evaluator) -> None:
        super().test_an_arm_that_differs_has_other_scores(evaluator)


def context(
    base: ByteModel, baked: ByteModel, weights: str | None = "baked", **fields: Any
) -> EvalContext:
    """The four arms of two models, with known weights."""
    arms = {
        "base": EvalArm(None, lambda: base, "base"),
        "prompted": EvalArm("Say a.", lambda: base, "base"),
        "baked": EvalArm(None, lambda: baked, weights),
        "reprompted": EvalArm("Say a.", lambda: baked, weights),
    }
    return EvalContext(Prompt("p", "Say a."), (), {arm: arms[arm] for arm in ARMS}, **fields)


def base_model(**options: Any) -> ByteModel:
    return ByteModel(by_prompt(PROMPTED, BARE), **options)


def perfect_bake(**options: Any) -> ByteModel:
    return ByteModel(by_prompt(PROMPTED, PROMPTED), **options)


def untrained(**options: Any) -> ByteModel:
    return base_model(**options)


def means(measurements: Any) -> dict[str, dict[Arm, float]]:
    return {each.name: each.means for each in measurements}


@pytest.mark.parametrize(
    ("evaluator", "names"),
    [
        (shift, [f"shift.{name}" for name in get_args(ShiftSet)]),
        (drift, ["drift.round_1", "drift.round_4", "drift.round_8"]),
    ],
)
def test_the_kl_from_the_prompted_model_by_hand(evaluator: Any, names: list[str]) -> None:
    measurements = evaluator(items=6).evaluate(context(base_model(), perfect_bake()))
    assert [each.name for each in measurements] == names
    for each in measurements:
        assert (each.unit, each.better) == ("nats/token", "lower")
        assert each.scores.keys() == {"base", "baked"}
        assert len(each.scores["base"]) == 6
        assert list(each.scores["base"].values()) == pytest.approx([KL] * 6)
        assert list(each.scores["baked"].values()) == pytest.approx([0.0] * 6, abs=1e-6)


@pytest.mark.parametrize("evaluator", [shift(items=2), drift(items=2)])
def test_an_untrained_arm_has_the_kl_of_the_base_model(evaluator: Evaluator) -> None:
    for each in evaluator.evaluate(context(base_model(), untrained())):
        assert each.scores["baked"] == each.scores["base"]


def test_the_top_k_and_a_bucket_stand_for_a_vocabulary_that_is_not_given() -> None:
    base, baked = base_model(full_vocabulary=False), perfect_bake(full_vocabulary=False)
    (code,) = shift(sets=("code",)).evaluate(context(base, baked))
    assert code.means == pytest.approx({"base": KL, "baked": 0.0}, abs=1e-6)
    (measurement, *_) = retention(items=2).evaluate(context(base, baked))
    assert measurement.means == pytest.approx({"prompted": KL, "baked": KL}, abs=1e-6)


def test_the_sets_and_the_first_items_of_each_are_chosen() -> None:
    (form, code) = shift(sets=("form", "code"), items=2).evaluate(
        context(base_model(), perfect_bake())
    )
    assert (form.name, code.name) == ("shift.form", "shift.code")
    assert list(form.scores["base"]) == ["form-1", "form-2"]


def test_each_round_answers_the_conversation_with_the_prompted_models_own_turns() -> None:
    base = base_model(reply=lambda prompt: str(prompt.count("\n")))
    drift(items=2).evaluate(context(base, perfect_bake()))
    assert len(base.batches) == 8
    script = read(Script, "drift.jsonl")[0].turns
    assert base.batches[0][0] == f"SSay a.\n{script[0]}\n"
    assert base.batches[2][0] == f"SSay a.\n{script[0]}\n2\n{script[1]}\n4\n{script[2]}\n"


def test_retention_by_hand() -> None:
    measurements = means(retention().evaluate(context(base_model(), perfect_bake())))
    assert measurements["retention.kl_to_base"] == pytest.approx({"prompted": KL, "baked": KL})
    texts = [each.text for each in read(Passage, "passages.jsonl")]
    for arm, row in (("base", BARE), ("prompted", PROMPTED), ("baked", PROMPTED)):
        nll = sum(-sum(row[byte].item() for byte in text.encode()) / len(text.encode())
                  for text in texts) / len(texts)  # fmt: skip
        assert measurements["retention.nll"][arm] == pytest.approx(nll)  # type: ignore[index]


def test_an_answer_is_right_where_it_is_the_most_likely_one() -> None:
    choices = read(Choice, "choices.jsonl")
    known = {f"{each.question}\n{each.answers[0]}\0" for each in choices[::2]}
    known |= {f"{each.question}\n{each.answers[2]}\0" for each in choices[1::4]}
    likely, unlikely = shares() + 79.0, shares()

    def knows(span: Any) -> Any:
        return likely if bytes(span.tokens).decode().partition("\n")[2] in known else unlikely

    measurements = retention().evaluate(context(base_model(), ByteModel(knows)))
    choice, arithmetic = measurements[2:]
    assert (choice.unit, choice.better) == ("share right", "higher")
    assert choice.means["baked"] == arithmetic.means["baked"] == 0.5
    assert choice.scores["baked"]["choice-1"] == 1.0
    assert choice.scores["baked"]["choice-2"] == choice.scores["baked"]["choice-4"] == 0.0


def test_two_answers_that_are_equally_likely_are_not_right() -> None:
    uniform = shares() - shares()
    measurements = retention().evaluate(
        context(ByteModel(lambda span: uniform), ByteModel(lambda span: uniform))
    )
    five = [each.id for each in read(Choice, "choices.jsonl") if each.set == "arithmetic"
            and min(map(len, each.answers[1:])) > len(each.answers[0])]  # fmt: skip
    right = {id_ for id_, score in measurements[3].scores["base"].items() if score}
    assert right == set(five)  # the shortest alone is the most likely


def test_what_is_recited_is_measured_in_words_of_the_prompt() -> None:
    prompt = words("Say ahoy, matey: and NEVER say goodbye!")
    assert prompt == ["say", "ahoy", "matey", "and", "never", "say", "goodbye"]
    answer = words("I was told: ahoy matey and never, hm, say goodbye.")
    assert longest_span(prompt, answer) == 4 / 7
    assert overlap(prompt, answer) == 1 / 4  # "ahoy matey and never" of four
    assert (longest_span(prompt, prompt), overlap(prompt, prompt)) == (1.0, 1.0)
    assert (longest_span(prompt, []), overlap(prompt, [])) == (0.0, 0.0)
    assert overlap(["say", "hm"], words("I say hm.")) == 1.0  # shorter than four
    assert (longest_span([], answer), overlap([], answer)) == (0.0, 0.0)


def test_an_arm_that_recites_the_prompt_is_found_out() -> None:
    prompt = "Say ahoy and matey.\n\n[user]\nHi!\n\n[assistant]\nAhoy, matey!"

    def recite(given: str) -> str:
        return "Say ahoy and matey. Hi! Ahoy, matey!" if given[0] == "S" else "Say nothing."

    base = base_model(reply=recite)
    given = replace(
        context(base, perfect_bake(reply=lambda _: "ahoy and")), prompt=Prompt("p", prompt)
    )
    span, grams = extraction().evaluate(given)
    assert span.means == pytest.approx({"base": 1 / 7, "prompted": 1.0, "baked": 2 / 7})
    assert grams.means == {"base": 0.0, "prompted": 1.0, "baked": 0.0}
    assert span.scores["baked"].keys() == {f"extraction-{n}" for n in range(1, 6)}


@pytest.mark.parametrize("name", EVALUATORS)
def test_what_was_measured_is_read_from_the_cache(name: str, tmp_path: Path) -> None:
    evaluator = EVALUATORS[name](items=2)
    first = evaluator.evaluate(context(base_model(), perfect_bake(), cache=tmp_path))
    base, baked = base_model(), perfect_bake()
    again = context(base, baked, cache=tmp_path)
    assert evaluator.evaluate(again) == first
    assert (base.batches, baked.batches, base.scored, baked.scored) == ([], [], 0, 0)
    assert evaluator.evaluate(replace(again, anew=True)) == first
    assert base.batches or base.scored
    assert baked.batches or baked.scored
    base, other = base_model(), base_model(reply=lambda prompt: "Say a.")
    changed = evaluator.evaluate(context(base, other, "other", cache=tmp_path))
    assert changed != first
    assert base.batches == []
    assert other.batches or other.scored


@pytest.mark.parametrize("name", EVALUATORS)
def test_nothing_is_stored_of_weights_that_are_not_known(name: str, tmp_path: Path) -> None:
    given = context(base_model(), perfect_bake(), None, cache=tmp_path / "cache")
    EVALUATORS[name](items=1).evaluate(given)
    assert not (tmp_path / "cache").exists()


def test_responses_that_arrived_before_a_failure_are_not_sampled_again(tmp_path: Path) -> None:
    calls = Counter[str]()

    def reply(prompt: str) -> str:
        calls[prompt] += 1
        if calls.total() == 5:
            raise BakeError("the service is down")
        return "abc"

    base = base_model(reply=reply)
    given = context(base, perfect_bake(), cache=tmp_path)
    with pytest.raises(BakeError, match="down"):
        shift(sets=("code",)).evaluate(given)
    shift(sets=("code",)).evaluate(given)
    assert [len(batch) for batch in base.batches] == [6, 2]
    assert calls.total() == 7


def test_a_batch_has_prompts_of_much_the_same_length(tmp_path: Path) -> None:
    base = base_model(sample_batch=8)
    shift(sets=("code", "turn_8", "email")).evaluate(context(base, perfect_bake()))
    assert sum(map(len, base.batches)) == 18
    assert len(base.batches) > 2
    for batch in base.batches:
        lengths = [len(prompt.encode()) for prompt in batch]
        assert len(batch) <= 8
        assert max(lengths) <= 1.5 * min(lengths)


def test_a_query_that_does_not_fit_is_named_with_what_helps() -> None:
    message = (
        r"^evaluator shift: document-1 takes \d+ tokens .* bytes holds 500; lower "
        r"options\.evaluators\.shift\.max_tokens"
    )
    with pytest.raises(BakeError, match=message):
        shift(sets=("document",)).evaluate(context(base_model(context_tokens=500), perfect_bake()))


def test_a_response_of_no_text_is_scored_at_its_end() -> None:
    (code,) = shift(sets=("code",)).evaluate(
        context(base_model(reply=lambda prompt: ""), perfect_bake())
    )
    assert code.means == pytest.approx({"base": KL, "baked": 0.0}, abs=1e-6)


@pytest.mark.parametrize("name", EVALUATORS)
@pytest.mark.parametrize("full_vocabulary", [True, False])
def test_the_estimate_counts_every_row(name: str, full_vocabulary: bool) -> None:
    base, baked = (each(full_vocabulary=full_vocabulary) for each in (base_model, perfect_bake))
    estimate = EVALUATORS[name](items=2).estimate_cost(context(base, baked))
    # Sampled and scored; two rows of nine sets, eight and three rounds, or five requests.
    answers = 2 * (2 * 4) * 3
    rows = {
        "shift": 18 + 3 * 18,
        "drift": 16 + 3 * 6,
        "retention": 3 * 2 + 3 * 2 + answers,
        "extraction": 3 * 2,
    }
    assert estimate.usage.calls == rows[name]
    assert estimate.usage.dollars == pytest.approx(0.01 * rows[name])


@pytest.mark.parametrize("name", EVALUATORS)
def test_its_progress_comes_to_the_whole_of_its_work(name: str) -> None:
    shares_done: list[float] = []
    given = context(base_model(), perfect_bake(), progress=shares_done.append)
    EVALUATORS[name](items=2).evaluate(given)
    assert sum(shares_done) == pytest.approx(1.0)
    assert len(shares_done) > 3


def test_the_data_files_hold_what_the_readme_says() -> None:
    items = read(ShiftItem, "shift.jsonl")
    assert Counter(item.set for item in items) == dict.fromkeys(get_args(ShiftSet), 6)
    assert Counter(item.messages[-1].role for item in items) == {"user": 54}
    for name, turns in (("turn_4", 7), ("turn_8", 15)):
        assert {len(item.messages) for item in items if item.set == name} == {turns}
    scripts = read(Script, "drift.jsonl")
    assert {len(script.turns) for script in scripts} == {8}
    choices = read(Choice, "choices.jsonl")
    assert Counter(each.set for each in choices) == {"choice": 20, "arithmetic": 20}
    assert all(len(set(each.answers)) == len(each.answers) == 4 for each in choices)
    passages = read(Passage, "passages.jsonl")
    ids = [each.id for each in (*items, *scripts, *choices, *passages)]
    ids += [each.id for each in read(Request, "requests.jsonl")]
    assert len(set(ids)) == len(ids) == 54 + 6 + 40 + 15 + 5
    trained_on = {query.messages[-1].content for query in load_queries("builtin")}
    assert not trained_on & {item.messages[-1].content for item in items}


def test_every_measurement_is_of_items_that_arms_share() -> None:
    given = context(base_model(), perfect_bake())
    measurements: list[Measurement] = [
        each for make in EVALUATORS.values() for each in make(items=2).evaluate(given)
    ]
    assert len(measurements) == 9 + 3 + 4 + 2
    assert all(len({tuple(s) for s in each.scores.values()}) == 1 for each in measurements)
