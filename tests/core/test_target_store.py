"""The teacher is asked once; what is stored is checked, and named by what it depends on."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from promptbake.distill.objective import TailedLoss
from promptbake.distill.target_store import TargetStore, ask_teacher
from promptbake.interfaces import Model
from promptbake.plugins.factories import PluginFactory
from promptbake.plugins.registry import Registry
from promptbake.progress import SilentReporter
from promptbake.runs.config import resolve
from promptbake.runs.run_folder import Run
from promptbake.runs.session import Session
from promptbake.types import Datum, Example, Prompt, Span, TeacherLogprobs
from promptbake_losses.divergences import CrossEntropy, ForwardKL

DATUM = Datum("c", "q", student_ids=(7, 1, 2), teacher_ids=(8, 9, 1, 2), n_response=2)
DEPENDS_ON = {"teacher": "self", "options": {}, "model": "abc", "k": 3, "draws": 2, "seed": 0}
LOGPROBS = torch.tensor([0.5, 0.3, 0.1]).log()
FORWARD_KL = TailedLoss(ForwardKL(), "sampled")


def targets(n: int = 2, k: int = 3, draws: int = 2, first: int = 0) -> TeacherLogprobs:
    return TeacherLogprobs(
        torch.arange(first, first + k).repeat(n, 1),
        LOGPROBS[:k].repeat(n, 1),
        torch.full((n, draws), first + 10),
        torch.full((n, draws), -4.0),
        torch.full((n, draws), 2.5),
    )


class CountingTeacher:
    """Gives each span targets that tell its length and its seed, and counts what it is asked."""

    def __init__(self) -> None:
        self.asked: list[Span] = []
        self.seeds: list[int] = []
        self.answers_before_it_breaks = 99

    def targets(
        self,
        spans: Sequence[Span],
        *,
        k: int,
        draws: int,
        seeds: Sequence[int],
        open_model: Callable[[], Model],
    ) -> Iterator[tuple[int, TeacherLogprobs]]:
        """One a span."""
        for index, (span, seed) in enumerate(zip(spans, seeds, strict=True)):
            if len(self.asked) == self.answers_before_it_breaks:
                raise ConnectionError
            self.asked.append(span)
            self.seeds.append(seed)
            yield index, targets(span.n_response, k, draws, first=len(span.tokens))


class NamedBackend:
    """Opens a model that is nothing but a digest."""

    name = "named"

    def open_model(self, name: str, budget: Any) -> Any:
        """A digest."""
        return SimpleNamespace(digest=f"digest of {name}", warnings=())


def session(folder: Path, teacher: CountingTeacher, *settings: str) -> Session:
    """A session whose teacher is given, and whose model has a digest only."""
    offers = (
        PluginFactory("teachers", "counting", "test", "1", lambda *, shade="": teacher),
        PluginFactory("backends", "named", "test", "1", NamedBackend),
    )
    chosen = ("teacher.source=counting", "train.backend=named", "teacher.top_k=3", *settings)
    resolved = resolve("mock", settings=chosen)
    return Session(
        Prompt("yoda", "Speak."), resolved, Run(folder), Registry(offers), SilentReporter()
    )


def datums(n: int) -> list[Datum]:
    return [
        replace(DATUM, conversation_id=f"c{i}", teacher_ids=(8,) * (i + 1) + (1, 2))
        for i in range(n)
    ]


def first_ids(examples: Sequence[Example]) -> list[int]:
    return [int(example.columns.ids[0, 0]) for example in examples]


def test_targets_come_back_as_they_were_stored(tmp_path: Path) -> None:
    store, stored = TargetStore(tmp_path, **DEPENDS_ON), targets()
    assert DATUM not in store
    store.put(DATUM, stored)
    assert DATUM in store
    for name, value in vars(store.get(DATUM)).items():
        assert torch.equal(value, getattr(stored, name))
        assert value.dtype == getattr(stored, name).dtype


def test_a_teacher_may_give_views_of_one_table(tmp_path: Path) -> None:
    store, plain = TargetStore(tmp_path, **DEPENDS_ON), targets()
    table = torch.cat([plain.logprobs, plain.drawn_logprobs], dim=1).T.contiguous()
    views = replace(
        plain,
        logprobs=table[: plain.logprobs.shape[1]].T,
        drawn_logprobs=table[plain.logprobs.shape[1] :].T,
        drawn_importance_weights=torch.ones(()).expand(plain.drawn_importance_weights.shape),
    )
    store.put(DATUM, views)
    for name in ("logprobs", "drawn_logprobs", "drawn_importance_weights"):
        assert torch.equal(getattr(store.get(DATUM), name), getattr(views, name))


@pytest.mark.parametrize(
    "change",
    [{"teacher": "x"}, {"options": {"a": 1}}, {"model": "x"}, {"k": 4}, {"draws": 3}, {"seed": 1}],
    ids=lambda change: next(iter(change)),
)
def test_the_key_changes_with_what_the_store_depends_on(change: dict[str, Any]) -> None:
    folder = Path()
    key = TargetStore(folder, **DEPENDS_ON).key(DATUM)
    assert TargetStore(folder, **(DEPENDS_ON | change)).key(DATUM) != key
    assert TargetStore(folder, **dict(reversed(DEPENDS_ON.items()))).key(DATUM) == key


def test_the_key_changes_with_what_the_teacher_reads_and_with_nothing_else() -> None:
    store = TargetStore(Path(), **DEPENDS_ON)
    keys = {
        store.key(DATUM),
        store.key(replace(DATUM, teacher_ids=(8, 8, 1, 2))),
        store.key(replace(DATUM, n_response=1)),
    }
    assert len(keys) == 3
    other = replace(DATUM, conversation_id="d", query_id="r", student_ids=(6, 6, 1, 2))
    assert store.key(other) == store.key(DATUM)


@pytest.mark.parametrize(
    ("wrong", "problem"),
    [
        (targets(n=3), r"gave \(3, 3\) ids and \(3, 3\) log-probabilities for 2 tokens"),
        (replace(targets(), ids=targets(k=2).ids), r"gave \(2, 2\) ids and \(2, 3\)"),
        (replace(targets(), drawn_ids=targets(n=1).drawn_ids), r"\(1, 2\) draws with \(2, 2\)"),
        (replace(targets(), drawn_logprobs=targets(draws=1).drawn_logprobs), r"with \(2, 1\)"),
        (replace(targets(), logprobs=targets().logprobs.flip(1)), "are not sorted nats below 0"),
        (replace(targets(), logprobs=-targets().logprobs.flip(1)), "are not sorted nats below 0"),
        (replace(targets(), logprobs=targets().logprobs.exp()), "are not sorted nats below 0"),
        (replace(targets(), logprobs=targets().logprobs * torch.nan), "is not finite"),
        (replace(targets(), logprobs=targets().logprobs.clone().fill_(-torch.inf)), "not finite"),
        (replace(targets(), drawn_logprobs=targets().drawn_logprobs * torch.nan), "not finite"),
    ],
)
def test_wrong_targets_are_not_stored(tmp_path: Path, wrong: TeacherLogprobs, problem: str) -> None:
    store = TargetStore(tmp_path, **DEPENDS_ON)
    with pytest.raises(ValueError, match=f"^c: .*{problem}"):
        store.put(DATUM, wrong)
    assert DATUM not in store
    assert list(tmp_path.iterdir()) == []


def test_a_rounding_error_above_zero_is_no_error(tmp_path: Path) -> None:
    rounded = replace(targets(k=1), logprobs=torch.full((2, 1), 1e-6))
    store = TargetStore(tmp_path, **DEPENDS_ON)
    store.put(DATUM, rounded)
    assert DATUM in store


def test_the_teacher_is_asked_once_for_each_datum(tmp_path: Path) -> None:
    teacher = CountingTeacher()
    some, more = datums(2), datums(4)
    assert first_ids(ask_teacher(session(tmp_path, teacher), FORWARD_KL, some)) == [3, 4]
    assert first_ids(ask_teacher(session(tmp_path, teacher), FORWARD_KL, more)) == [3, 4, 5, 6]
    assert first_ids(ask_teacher(session(tmp_path, teacher), FORWARD_KL, more[::-1])) == [
        6,
        5,
        4,
        3,
    ]
    assert teacher.asked == [datum.teacher for datum in more]


def test_what_a_teacher_that_breaks_has_answered_is_not_asked_again(tmp_path: Path) -> None:
    teacher = CountingTeacher()
    teacher.answers_before_it_breaks = 2
    with pytest.raises(ConnectionError):
        ask_teacher(session(tmp_path, teacher), FORWARD_KL, datums(4))
    teacher.answers_before_it_breaks = 99
    ask_teacher(session(tmp_path, teacher), FORWARD_KL, datums(4))
    assert teacher.asked == [datum.teacher for datum in datums(4)]


@pytest.mark.parametrize(
    "setting",
    [
        "seed=1",
        "teacher.top_k=2",
        "train.tail_draws=3",
        "model.name=other",
        "options.teachers.counting.shade=dark",
    ],
)
def test_the_teacher_is_asked_again_where_its_answer_would_be_another(
    tmp_path: Path, setting: str
) -> None:
    teacher = CountingTeacher()
    ask_teacher(session(tmp_path, teacher), FORWARD_KL, datums(1))
    ask_teacher(session(tmp_path, teacher, setting), FORWARD_KL, datums(1))
    assert len(teacher.asked) == 2


def test_conversations_with_the_same_tokens_draw_the_same_tail(tmp_path: Path) -> None:
    """They share a file, so which of them was stored last must make no difference."""
    teacher = CountingTeacher()
    twins = [DATUM, replace(DATUM, conversation_id="d"), *datums(1)]
    ask_teacher(session(tmp_path, teacher), FORWARD_KL, twins)
    assert teacher.seeds[0] == teacher.seeds[1] != teacher.seeds[2]


def test_a_teacher_that_gives_too_few_answers_is_found_out(tmp_path: Path) -> None:
    class Short(CountingTeacher):
        """Forgets the last span."""

        def targets(
            self, spans: Sequence[Span], **how: Any
        ) -> Iterator[tuple[int, TeacherLogprobs]]:
            how["seeds"] = how["seeds"][:-1]
            return super().targets(spans[:-1], **how)

    with pytest.raises(ValueError, match="no targets for c1"):
        ask_teacher(session(tmp_path, Short()), FORWARD_KL, datums(2))


def test_only_the_sampled_tail_draws(tmp_path: Path) -> None:
    teacher = CountingTeacher()
    (sampled,) = ask_teacher(session(tmp_path, teacher), FORWARD_KL, [DATUM])
    (dropped,) = ask_teacher(session(tmp_path, teacher), TailedLoss(ForwardKL(), "drop"), [DATUM])
    draws = resolve("mock").config.train.tail_draws
    assert sampled.columns.ids.shape == (2, 3 + draws)
    assert dropped.columns.ids.shape == (2, 3)


def test_a_loss_on_the_response_asks_nobody(tmp_path: Path) -> None:
    teacher = CountingTeacher()
    (example,) = ask_teacher(
        session(tmp_path, teacher), TailedLoss(CrossEntropy(), "drop"), [DATUM]
    )
    assert example.columns.ids.tolist() == [[1], [2]]
    assert teacher.asked == []
    assert not (tmp_path / "targets").exists()
