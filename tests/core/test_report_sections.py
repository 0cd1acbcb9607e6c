"""The report's sections: each appears where its measurements exist, with counts and intervals."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pytest
from page_reader import Reader
from verify_example import RESULT

from promptbake.report import page
from promptbake.report.formats import number, percent, signed_percent, tokens_to_tell
from promptbake.report.measured import MeasurementResult
from promptbake.report.query_kl import by_query, questions
from promptbake.report.scales import Scale, kl_scale, share_scale
from promptbake.report.sections import criterion_interval, criterion_limit, criterion_name
from promptbake.report.verdict import Criterion
from promptbake.runs.run_folder import Run
from promptbake.types import Conversation, KLByConversation, Measurement, Message

MINUS = "\N{MINUS SIGN}"
TITLES = {
    "shift.code": "Where it was not trained",
    "drift.round_4": "Over a conversation",
    "retention.choice": "What else changed",
    "extraction.overlap": "Does it recite its prompt?",
    "reverse_kl": "In the other direction",
    "says arr": "Measurements",
}
Measured = Callable[..., Reader]


@pytest.fixture
def measured(tmp_path: Path) -> Measured:
    """The page of a result with these measurements, and with other changes."""
    run = Run(tmp_path / "runs" / "yoda")
    run.path.mkdir(parents=True)

    def written(*measurements: Measurement, **changes: Any) -> Reader:
        evaluators = {each.name: MeasurementResult.of(each) for each in measurements}
        RESULT.model_copy(update={"evaluators": evaluators, **changes}).save(run.verify)
        page.write(run)
        return Reader(run.report.read_text("utf-8"))

    return written


def in_nats(name: str, base: float, baked: float) -> Measurement:
    scores = {
        "base": dict.fromkeys("abc", base),
        "baked": {"a": baked, "b": baked * 1.1, "c": baked * 0.9},
    }
    return Measurement(name, "nats/token", scores, "lower")  # type: ignore[arg-type]


def shares(name: str, **passes: int) -> Measurement:
    """Of ten answers each."""
    scores: Mapping[Any, Mapping[str, float]] = {
        arm: {str(item): float(item < count) for item in range(10)} for arm, count in passes.items()
    }
    return Measurement(name, "share of answers", scores)


@pytest.mark.parametrize("name", TITLES)
def test_a_section_is_there_exactly_where_it_has_measurements(
    measured: Measured, name: str
) -> None:
    kind = name.partition(".")[0]
    each = in_nats(name, 1.0, 0.2) if kind in ("shift", "drift", "reverse_kl") else None
    text = measured(each or shares(name, base=1, prompted=5, baked=4)).text
    headings = text.partition("What decided it")[2]
    found = {key for key, title in TITLES.items() if title in headings}
    assert found == {name}


def test_a_share_is_a_count_with_its_interval_and_so_is_the_difference(measured: Measured) -> None:
    reader = measured(shares("says arr", base=0, prompted=10, baked=9))
    assert reader.order(
        "says arr share of answers",
        "0 of 10 0.0 to 27.8 %",
        "10 of 10 72.2 to 100.0 %",
        "9 of 10 59.6 to 98.2 %",
        f"{MINUS}10.0 {MINUS}40.4 to +20.5",
    )


def test_what_is_no_share_is_a_mean_and_an_arm_that_was_not_measured_says_so(
    measured: Measured,
) -> None:
    length = Measurement("length", "words", {"baked": {"a": 1234.5}}, "lower")
    text = measured(length, shares("says arr", base=0)).text
    dash = "\N{EN DASH} not measured"
    assert f"length words, lower is better {dash} 1,234" in text
    assert f"says arr share of answers 0 of 10 0.0 to 27.8 % {dash}" in text


def test_sets_are_worst_first_and_the_worst_is_in_the_headline(measured: Measured) -> None:
    sets = [
        in_nats("shift.code", 1.0, 0.2),
        in_nats("shift.json_form", 1.0, 1.5),
        in_nats("shift.e-mail", 1.0, 0.6),
    ]
    reader = measured(*sets)
    assert reader.order(
        f"Worst of 3 kinds of text that it was not trained on: json form, {MINUS}50.0 %",
        "Where it was not trained",
        f"json form {MINUS}50.0 %",
        "1.000 → 1.500 nats, 3 items",
        "e-mail 40.0 %",
        "code 80.0 %",
        f"{MINUS}100",  # the axis begins below 0
    )


def test_rounds_stay_in_their_order(measured: Measured) -> None:
    rounds = [in_nats(f"drift.round_{n}", 1.0, kl) for n, kl in ((1, 0.4), (4, 0.1), (8, 0.3))]
    assert measured(*rounds).order("round 1 60.0 %", "round 4 90.0 %", "round 8 70.0 %")


def test_queries_are_worst_first_and_those_that_became_worse_are_counted(
    measured: Measured,
) -> None:
    reader = measured()
    assert reader.order("made none of them worse", "Why? 0.130 nats, base 0.420", "Is ice light?")
    worse = [RESULT.queries[0].model_copy(update={"baked": 0.9})]
    more = [each.model_copy(update={"id": f"more-{n}"}) for n, each in enumerate(worse * 9)]
    reader = measured(queries=more)
    assert "On 9 queries the bake made it worse, not better." in reader.text
    assert reader.order("0.900 nats, base 0.560", "The other 1", "0.900 nats, base 0.560")


def test_length_and_ending_are_by_arm(measured: Measured) -> None:
    text = measured().text
    assert "Prompted 13.0 tokens 1 of 1 Baked 48.0 tokens 0 of 1 Of the answers" in text


def test_the_kl_of_a_query_is_that_of_all_its_tokens() -> None:
    turns = (Message("user", "Q"), Message("assistant", "A"))
    messages = (*turns, Message("user", "Why?"), Message("assistant", "B"))
    asked = questions([Conversation(f"c{n}", f"q{n // 2}", messages) for n in range(3)])
    nats = KLByConversation((0.2, 1.0, 0.5), (1, 3, 2))
    arms = dict.fromkeys(("base", "baked", "reprompted"), nats)
    first, second = by_query(["q0", "q0", "q1"], asked, arms)  # type: ignore[arg-type]
    assert (first.id, first.question, first.tokens, first.baked) == ("q0", "Why?", 4, 0.3)
    assert (second.tokens, second.base) == (2, 0.25)


@pytest.mark.parametrize(
    ("values", "high"), [((), 1.0), ((0.56,), 1.0), ((1.0,), 1.0), ((1.2, 0.1), 2.0), ((99.0,), 50)]
)
def test_a_scale_of_kl_is_one_of_few(values: tuple[float, ...], high: float) -> None:
    assert kl_scale(values) == Scale(0.0, high)


def test_positions_on_a_scale() -> None:
    scale = share_scale([0.5, -0.2])
    assert [scale.at(value) for value in (-3, -1, 0, 0.5, 1, 2)] == [
        "0.00%",
        "0.00%",
        "50.00%",
        "75.00%",
        "100.00%",
        "100.00%",
    ]
    assert share_scale([0.5]).ticks == [0.0, 0.25, 0.5, 0.75, 1.0]
    assert not scale.holds(-3)


def criterion(margin: str, measurement: str, limit: float, bound: Any) -> Criterion:
    return Criterion(
        margin=margin,
        measurement=measurement,
        value=0.1,
        ci90=(-0.05, 0.25),
        bound=bound,
        limit=limit,
        passed=True,
        refuted=False,
    )


@pytest.mark.parametrize(
    ("each", "name", "interval", "limit"),
    [
        (
            criterion("shift", "shift.json_form", 0.5, "at least"),
            "not trained on: json form", f"{MINUS}5.0 to 25.0 %", "at least 50 %",
        ),
        (
            criterion("checks", "says (arr), baked - prompted", 0.3, "within"),
            f"says (arr), baked {MINUS} prompted",
            f"{MINUS}5.0 to +25.0 points",
            "within ±30 points",
        ),
        (
            criterion("checks", "retention.choice", -0.3, "at least"),
            f"what else changed: choice, baked {MINUS} prompted",
            f"{MINUS}5.0 to +25.0 points",
            f"at least {MINUS}30 points",
        ),
        (
            criterion("retention", "retention.kl_to_base, baked - prompted", 0.2, "at most"),
            f"what else changed: kl to base, baked {MINUS} prompted",
            f"{MINUS}0.050 to 0.250 nats",
            "at most 0.2 nats",
        ),
        (
            criterion("reverse_kl", "reverse_kl", 0.5, "at least"),
            "in the other direction", f"{MINUS}5.0 to 25.0 %", "at least 50 %",
        ),
    ],
)  # fmt: skip
def test_a_criterion_is_in_the_unit_of_its_margin(
    each: Criterion, name: str, interval: str, limit: str
) -> None:
    assert criterion_name(each) == name
    assert criterion_interval(each).replace("\u00a0", " ") == interval
    assert criterion_limit(each).replace("\u00a0", " ") == limit


def test_numbers_as_a_reader_wants_them() -> None:
    values = (0.0, 0.00012, -1.5, 44.25, 1234.5)
    shown = ["0.000", f"1.2e{MINUS}04", f"{MINUS}1.500", "44.2", "1,234"]
    assert [number(value) for value in values] == shown
    assert percent(-0.131) == f"{MINUS}13.1\u00a0%"
    assert [signed_percent(value) for value in (0.0001, 0.1, -0.1)] == [
        "0.0",
        "+10.0",
        f"{MINUS}10.0",
    ]


@pytest.mark.parametrize(
    ("nats", "tokens"),
    [(0.1, "30 tokens"), (3.0, "1 token"), (9.0, "1 token"), (0.0, "more than 9,999 tokens")],
)
def test_tokens_until_the_odds_are_20_to_1(nats: float, tokens: str) -> None:
    assert tokens_to_tell(nats) == tokens
