"""What the teacher's scores are used for: the tail's treatment, and the check of the responses."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch import Tensor

from promptbake.distill.sampling_check import SamplingCheck
from promptbake.errors import BakeError
from promptbake.progress import SilentReporter
from promptbake.runs.scoring import choose_tail
from promptbake.runs.session import open_session
from promptbake.runs.training_log import loss_note
from promptbake.types import Datum, Prompt, TeacherLogprobs

K, VOCABULARY, TOKENS, CONVERSATIONS = 20, 300, 40, 60


def probabilities(logits: Tensor, temperature: float, top_k: int, top_p: float) -> Tensor:
    """As a server that truncates: [N, V]."""
    kept = (logits / temperature).softmax(dim=1)
    kept = kept * (kept >= kept.topk(top_k, dim=1).values[:, -1:])
    order = kept.sort(dim=1, descending=True)
    beyond = order.values.cumsum(dim=1) - order.values >= top_p * order.values.sum(1, keepdim=True)
    return kept.scatter(1, order.indices, order.values.masked_fill(beyond, 0.0))


def checked(
    label: float, temperature: float, top_k: int = VOCABULARY, top_p: float = 1.0
) -> SamplingCheck:
    """Responses that are labelled with one temperature, and sampled at perhaps another."""
    generator, check = torch.Generator().manual_seed(0), SamplingCheck()
    for number in range(CONVERSATIONS):
        logits = 2.5 * torch.randn(TOKENS, VOCABULARY, generator=generator)
        drawn = probabilities(logits, temperature, top_k, top_p)
        ids = tuple(drawn.multinomial(1, generator=generator)[:, 0].tolist())
        top = logits.log_softmax(dim=1).topk(K, dim=1)
        none = torch.zeros(TOKENS, 0)
        scores = TeacherLogprobs(top.indices, top.values, none.long(), none, none)
        check.add(Datum(f"c{number}", "q", (1, *ids), (2, *ids), TOKENS, label), scores)
    return check


@pytest.mark.parametrize("temperature", [0.5, 0.7, 1.0])
def test_honest_samples_have_the_nats_that_are_expected(temperature: float) -> None:
    check = checked(temperature, temperature)
    (statistics,) = check.by_temperature.values()
    assert abs(statistics.sigmas) < 4
    assert statistics.ratio == pytest.approx(1, abs=0.04)
    assert list(check.warnings()) == []
    numbers = check.as_json()[f"{temperature:g}"]
    assert (numbers["tokens"], len(numbers)) == (TOKENS * CONVERSATIONS, 4)


@pytest.mark.parametrize(
    ("label", "sampled", "why"),
    [
        (1.0, {"temperature": 1.0, "top_k": 20, "top_p": 0.95}, "a truncation"),
        (1.0, {"temperature": 1.0, "top_p": 0.9}, "a truncation"),
        (1.0, {"temperature": 0.6}, "at a lower temperature"),
        (0.7, {"temperature": 0.05}, "at a lower temperature"),
        (0.5, {"temperature": 1.0}, "a higher temperature"),
    ],
)
def test_other_samples_are_named_with_their_numbers(
    label: float, sampled: dict[str, float], why: str
) -> None:
    (line,) = checked(label, **sampled).warnings()  # type: ignore[arg-type]
    assert f"at temperature {label:g} are no samples of the teacher" in line
    assert why in line


def test_what_cannot_be_judged_is_not() -> None:
    for temperature in (0.0, 1.5):
        assert checked(temperature, 1.0).as_json() == {}


OPENAI = ("teacher.source=openai", "options.teachers.openai.model=m")


@pytest.mark.parametrize(
    ("settings", "tail", "reason"),
    [
        ((), "sampled", "teacher.source = 'self' draws tokens from the tail"),
        (OPENAI, "bucket", "teacher.source = 'openai' draws no tokens from the tail"),
        ((*OPENAI, "train.tail=drop"), "drop", "it is set"),
        ((*OPENAI, "train.tail=sampled"), None, "'openai' draws no .*set train.tail=bucket, or"),
        ((*OPENAI, "train.loss=cross_entropy"), "sampled", "evaluated on the response"),
    ],
)
def test_the_tail_is_what_the_teacher_can_do(
    tmp_path: Path, settings: tuple[str, ...], tail: str | None, reason: str
) -> None:
    session = open_session(
        Prompt("pirate", "Arr."),
        profile="mock",
        config_file=None,
        settings=settings,
        run=tmp_path / "run",
        reporter=SilentReporter(),
    )
    if tail is None:
        with pytest.raises(BakeError, match=reason):
            choose_tail(session)
        return
    choice = choose_tail(session)
    assert choice.tail == tail
    assert reason in choice.reason


def test_a_loss_below_0_is_shown_with_its_reason() -> None:
    assert loss_note(0.1234, "sampled") == "0.123 nats/token"
    assert "estimated by draws" in loss_note(-0.1, "sampled")
    assert "no KL: train.tail = 'drop'" in loss_note(-0.1, "drop")
