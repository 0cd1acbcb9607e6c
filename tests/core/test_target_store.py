"""Each datum is scored once; what is stored is checked, and named by what it depends on."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from promptbake.distill.objective import TailedLoss
from promptbake.distill.target_store import TargetStore
from promptbake.errors import ContractError
from promptbake.interfaces import Model
from promptbake.plugins.factories import PluginFactory
from promptbake.plugins.registry import Registry
from promptbake.progress import SilentReporter
from promptbake.runs.layers import resolve
from promptbake.runs.run_folder import Run
from promptbake.runs.scoring import stored_teacher, training_examples
from promptbake.runs.session import Session
from promptbake.types import (
    BakeTarget,
    Checkpoint,
    Datum,
    Example,
    Prompt,
    Span,
    TeacherLogprobs,
)
from promptbake_losses.divergences import CrossEntropy, ForwardKL

DATUM = Datum("c", "q", student_ids=(7, 1, 2), teacher_ids=(8, 9, 1, 2), n_response=2)
DEPENDS_ON = {"teacher": "self", "options": {}, "model": "abc", "k": 3, "draws": 2, "seed": 0}
LOGPROBS = torch.tensor([0.5, 0.3, 0.1]).log()
FORWARD_KL = TailedLoss(ForwardKL(), "sampled")


def scores(n: int = 2, k: int = 3, draws: int = 2, first: int = 0) -> TeacherLogprobs:
    return TeacherLogprobs(
        torch.arange(first, first + k).repeat(n, 1),
        LOGPROBS[:k].repeat(n, 1),
        torch.full((n, draws), first + 10),
        torch.full((n, draws), -4.0),
        torch.full((n, draws), 2.5),
    )


class CountingTeacher:
    """Gives each span scores that show its length, and records the spans and the seeds."""

    samples_tail = True

    def __init__(self) -> None:
        self.spans: list[Span] = []
        self.seeds: list[int] = []
        self.fails_after = 99

    def score(
        self,
        spans: Sequence[Span],
        *,
        k: int,
        draws: int,
        seeds: Sequence[int],
        open_model: Callable[[], Model],
    ) -> Iterator[tuple[int, TeacherLogprobs]]:
        for index, (span, seed) in enumerate(zip(spans, seeds, strict=True)):
            if len(self.spans) == self.fails_after:
                raise ConnectionError
            self.spans.append(span)
            self.seeds.append(seed)
            yield index, scores(span.n_response, k, draws, first=len(span.tokens))


class NamedBackend:
    """Opens a model that is nothing but a digest."""

    name = "named"

    def open_model(self, name: str, budget: Any) -> Any:
        return SimpleNamespace(digest=f"digest of {name}", warnings=())


def session(folder: Path, teacher: CountingTeacher, *settings: str) -> Session:
    """A session whose teacher is given, and whose model has a digest only."""
    factories = (
        PluginFactory("teachers", "counting", "test", "1", lambda *, shade="": teacher),
        PluginFactory("backends", "named", "test", "1", NamedBackend),
    )
    chosen = ("teacher.source=counting", "train.backend=named", "teacher.top_k=3", *settings)
    resolved = resolve("mock", settings=chosen)
    prompt = Prompt("yoda", "Speak.")
    targets = (BakeTarget("", prompt),)
    return Session(prompt, targets, resolved, Run(folder), Registry(factories), SilentReporter())


def examples_of(session: Session, objective: TailedLoss, datums: Sequence[Datum]) -> list[Example]:
    return training_examples(session, stored_teacher(session), objective, datums)[0]


def datums(n: int) -> list[Datum]:
    return [
        replace(DATUM, conversation_id=f"c{i}", teacher_ids=(8,) * (i + 1) + (1, 2))
        for i in range(n)
    ]


def first_ids(examples: Sequence[Example]) -> list[int]:
    return [int(example.support.ids[0, 0]) for example in examples]


def test_scores_come_back_as_they_were_stored_views_of_one_table_too(tmp_path: Path) -> None:
    plain = scores()
    table = torch.cat([plain.logprobs, plain.drawn_logprobs], dim=1).T.contiguous()
    views = replace(
        plain,
        logprobs=table[: plain.logprobs.shape[1]].T,
        drawn_logprobs=table[plain.logprobs.shape[1] :].T,
        drawn_importance_weights=torch.ones(()).expand(plain.drawn_importance_weights.shape),
    )
    for name, stored in (("plain", plain), ("views", views)):
        store = TargetStore(tmp_path / name, **DEPENDS_ON)
        assert DATUM not in store
        store.put(DATUM, stored)
        assert DATUM in store
        for field, value in vars(store.get(DATUM)).items():
            assert torch.equal(value, getattr(stored, field))
            assert value.dtype == getattr(stored, field).dtype


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
        (scores(n=3), r"gave \(3, 3\) ids and \(3, 3\) log-probabilities for 2 tokens"),
        (replace(scores(), ids=scores(k=2).ids), r"gave \(2, 2\) ids and \(2, 3\)"),
        (replace(scores(), drawn_ids=scores(n=1).drawn_ids), r"\(1, 2\) draws with \(2, 2\)"),
        (replace(scores(), drawn_logprobs=scores(draws=1).drawn_logprobs), r"with \(2, 1\)"),
        (replace(scores(), logprobs=scores().logprobs.flip(1)), "are not sorted nats below 0"),
        (replace(scores(), logprobs=-scores().logprobs.flip(1)), "are not sorted nats below 0"),
        (replace(scores(), logprobs=scores().logprobs.exp()), "are not sorted nats below 0"),
        (replace(scores(), logprobs=scores().logprobs * torch.nan), "is not finite"),
        (replace(scores(), logprobs=scores().logprobs.clone().fill_(-torch.inf)), "not finite"),
        (replace(scores(), drawn_logprobs=scores().drawn_logprobs * torch.nan), "not finite"),
    ],
)
def test_wrong_scores_are_not_stored(tmp_path: Path, wrong: TeacherLogprobs, problem: str) -> None:
    store = TargetStore(tmp_path, **DEPENDS_ON)
    with pytest.raises(ValueError, match=f"^c: .*{problem}"):
        store.put(DATUM, wrong)
    assert DATUM not in store
    assert list(tmp_path.iterdir()) == []


def test_a_rounding_error_above_zero_is_no_error(tmp_path: Path) -> None:
    rounded = replace(scores(k=1), logprobs=torch.full((2, 1), 1e-6))
    store = TargetStore(tmp_path, **DEPENDS_ON)
    store.put(DATUM, rounded)
    assert DATUM in store


def test_the_teacher_scores_each_datum_once(tmp_path: Path) -> None:
    teacher = CountingTeacher()
    some, more = datums(2), datums(4)
    assert first_ids(examples_of(session(tmp_path, teacher), FORWARD_KL, some)) == [3, 4]
    assert first_ids(examples_of(session(tmp_path, teacher), FORWARD_KL, more)) == [3, 4, 5, 6]
    assert first_ids(examples_of(session(tmp_path, teacher), FORWARD_KL, more[::-1])) == [
        6,
        5,
        4,
        3,
    ]
    assert teacher.spans == [datum.teacher for datum in more]


def test_what_a_failing_teacher_has_scored_is_not_scored_again(tmp_path: Path) -> None:
    teacher = CountingTeacher()
    teacher.fails_after = 2
    with pytest.raises(ConnectionError):
        examples_of(session(tmp_path, teacher), FORWARD_KL, datums(4))
    teacher.fails_after = 99
    examples_of(session(tmp_path, teacher), FORWARD_KL, datums(4))
    assert teacher.spans == [datum.teacher for datum in datums(4)]


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
def test_the_teacher_scores_again_where_the_result_would_differ(
    tmp_path: Path, setting: str
) -> None:
    teacher = CountingTeacher()
    examples_of(session(tmp_path, teacher), FORWARD_KL, datums(1))
    examples_of(session(tmp_path, teacher, setting), FORWARD_KL, datums(1))
    assert len(teacher.spans) == 2


class Saying(SilentReporter):
    """Keeps the lines that it is to say."""

    def __init__(self) -> None:
        self.lines: list[str] = []

    def say(self, line: str) -> None:
        self.lines.append(line)


@pytest.mark.parametrize(
    "damage",
    [lambda content: content[:-1] + bytes([content[-1] ^ 1]), lambda content: content[:-9], None],
    ids=["flipped", "cut", "without a checksum"],
)
def test_damaged_scores_are_named_and_asked_for_again(
    tmp_path: Path, damage: Callable[[bytes], bytes] | None
) -> None:
    teacher, reporter = CountingTeacher(), Saying()
    opened = replace(session(tmp_path, teacher), reporter=reporter)
    examples_of(opened, FORWARD_KL, datums(3))
    file = next((tmp_path / "teacher_logprobs").iterdir())
    content = file.read_bytes()
    if damage is None:
        file.rename(file.with_name(file.name[:32] + ".safetensors"))
    else:
        file.write_bytes(damage(content))
    assert first_ids(examples_of(opened, FORWARD_KL, datums(3))) == [3, 4, 5]
    (again,) = teacher.spans[3:]
    assert file.read_bytes() == content
    lost = f"teacher: 1 stored scores are damaged, and asked for again: c{len(again.tokens) - 3}"
    said = [line for line in reporter.lines if line.startswith("teacher: ")]
    assert said == [lost] * (damage is not None) + ["teacher: 2 of 3 are stored already"]


def test_a_baked_teachers_scores_are_not_the_base_models(tmp_path: Path) -> None:
    teacher = CountingTeacher()
    opened = session(tmp_path, teacher)
    for uri in (None, "baked-1", "baked-2", "baked-1"):
        baked = Checkpoint("named", "base", "digest", uri) if uri else None
        list(stored_teacher(opened, baked=baked).scores([DATUM], draws=0))
    assert len(teacher.spans) == 3


def test_conversations_with_the_same_tokens_draw_the_same_tail(tmp_path: Path) -> None:
    """They share a file, so which of them was stored last must make no difference."""
    teacher = CountingTeacher()
    twins = [DATUM, replace(DATUM, conversation_id="d"), *datums(1)]
    examples_of(session(tmp_path, teacher), FORWARD_KL, twins)
    assert teacher.seeds[0] == teacher.seeds[1] != teacher.seeds[2]


def test_a_teacher_that_gives_too_few_answers_is_named(tmp_path: Path) -> None:
    class Short(CountingTeacher):
        """Forgets the last span."""

        def score(self, spans: Sequence[Span], **how: Any) -> Iterator[tuple[int, TeacherLogprobs]]:
            how["seeds"] = how["seeds"][:-1]
            return super().score(spans[:-1], **how)

    with pytest.raises(ContractError, match=r"Short: gave no scores for c1") as caught:
        examples_of(session(tmp_path, Short()), FORWARD_KL, datums(2))
    assert (
        "plugin test 1, hook promptbake_register_teachers, 'counting'" in caught.value.__notes__[0]
    )


def test_only_the_sampled_tail_draws(tmp_path: Path) -> None:
    teacher = CountingTeacher()
    (sampled,) = examples_of(session(tmp_path, teacher), FORWARD_KL, [DATUM])
    (dropped,) = examples_of(session(tmp_path, teacher), TailedLoss(ForwardKL(), "drop"), [DATUM])
    draws = resolve("mock").config.train.tail_draws
    assert sampled.support.ids.shape == (2, 3 + draws)
    assert dropped.support.ids.shape == (2, 3)


def test_a_loss_on_the_response_asks_no_teacher(tmp_path: Path) -> None:
    teacher = CountingTeacher()
    (example,) = examples_of(
        session(tmp_path, teacher), TailedLoss(CrossEntropy(), "drop"), [DATUM]
    )
    assert example.support.ids.tolist() == [[1], [2]]
    assert teacher.spans == []
    assert not (tmp_path / "teacher_logprobs").exists()
