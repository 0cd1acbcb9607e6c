"""Which plugin failed: a note on the error, and the other plugins that still work."""

from __future__ import annotations

import traceback
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
from command import promptbake
from run_folder import MOCK, settings

from distribution import Site
from promptbake.costs import NoBudget
from promptbake.dataset.chat_template import ChatRenderer
from promptbake.distill.objective import TailedLoss
from promptbake.errors import BakeError
from promptbake.interfaces import GenerationJob, Model
from promptbake.plugins.attribution import attributed, contract_error
from promptbake.testing.tiny import tiny_tokenizer
from promptbake.types import (
    Completion,
    Datum,
    Example,
    GenerationRequest,
    ImmediateResult,
    LossSupport,
    Message,
    Prompt,
    Query,
)
from promptbake_losses.divergences import ForwardKL
from promptbake_mock.tiny import NAME, tiny_backend
from promptbake_self import SelfProvider

FAULTY = """
import torch
from promptbake import NO_COST, BakeError, Measurement, hookimpl
from promptbake_jsonl import JsonlTracker

PROMPTBAKE_API = 2

class Loss:
    support, linear = "teacher", False

    def __init__(self, how):
        self.how = how

    def __call__(self, student, teacher, importance_weights):
        if self.how == "shape":
            return (importance_weights * (teacher - student)).sum(dim=0)
        if self.how == "user":
            raise BakeError("options.losses.faulty.how: choose another")
        return torch.stack([student, teacher[:, :1]])

def loss(*, how: str = "stack", strict: bool = False):
    if how == "factory":
        raise KeyError(how)
    return Loss(how)

class Evaluator:
    def __init__(self, measure):
        self.evaluate = lambda context: measure()

    def estimate_cost(self, context):
        return NO_COST

def raises(error):
    raise error

class Texts:
    def queries(self):
        return ()

    def estimate_cost(self, job):
        return NO_COST

    def generate(self, job):
        return iter(["Arr!"])

class Child(JsonlTracker):
    def start(self, folder, config, step):
        pass

@hookimpl
def promptbake_register_losses():
    return {"faulty": loss}

@hookimpl
def promptbake_register_evaluators():
    return {
        "plain": lambda: Evaluator(lambda: [{"name": "length"}]),
        "critic": lambda: Evaluator(lambda: [Measurement("m", "words", {"critic": {"a": 1.0}})]),
        "silent": lambda: Evaluator(lambda: None),
        "exits": lambda: Evaluator(lambda: raises(SystemExit(7))),
        "denied": lambda: Evaluator(lambda: raises(PermissionError(13, "Permission denied", "/x"))),
        "none": lambda: None,
        "empty": object,
    }

@hookimpl
def promptbake_register_data_providers():
    return {"texts": Texts}

@hookimpl
def promptbake_register_trackers():
    return {"child": Child}
"""
RAISED_BY = "promptbake: raised by plugin faulty 1.2, hook promptbake_register_"


def crash(*arguments: str | Path) -> list[str]:
    """The lines that a crash prints."""
    with pytest.raises(Exception) as caught:  # noqa: PT011
        promptbake(*arguments)
    return "".join(traceback.format_exception(caught.value)).splitlines()


def has(lines: list[str], text: str) -> bool:
    return any(text in line for line in lines)


TRACKERS = ('train.trackers=["jsonl","child"]', "train.epochs=1")


def loss(how: str) -> tuple[str, ...]:
    return "train.loss=faulty", f"options.losses.faulty.how={how}"


def evaluator(name: str) -> tuple[str, ...]:
    return f'verify.evaluators=["{name}"]', "verify.max_tokens=2"


CRASHES = [
    ("losses, 'faulty'", "bake", loss("stack"), "RuntimeError: stack expects each tensor to be"),
    ("losses, 'faulty'", "bake", loss("shape"), ".Loss: gave a result of shape ("),
    ("losses, 'faulty'", "bake", loss("factory"), "KeyError: 'factory'"),
    ("trackers, 'child'", "bake", TRACKERS, "AttributeError: 'Child' object has no attribute"),
    ("data_providers, 'texts'", "data", ("data.provider=texts",), ".Texts: gave 'Arr!': expected"),
    *(
        (f"evaluators, '{name}'", "verify", evaluator(name), line)
        for name, line in {
            "plain": ".Evaluator: gave {'name': 'length'}: expected a Measurement",
            "critic": "the arms are base, prompted, baked, reprompted",
            "silent": ".Evaluator: evaluate gave None: expected items to iterate over",
            "exits": "RuntimeError: SystemExit: 7",
            "denied": "PermissionError: [Errno 13] Permission denied: '/x'",
            "none": "builtins.NoneType: has no estimate_cost, evaluate",
            "empty": "builtins.object: has no estimate_cost, evaluate",
        }.items()
    ),
]


@pytest.mark.parametrize(("origin", "stage", "chosen", "line"), CRASHES)
def test_whatever_a_plugin_does_it_is_named_with_its_options(
    site: Site, own_copy: Path, prompt: Path, origin: str, stage: str, chosen: tuple[str, ...],
    line: str,
) -> None:  # fmt: skip
    site.install("faulty", FAULTY)
    printed = crash(stage, prompt, *MOCK, *settings(*chosen))
    assert has(printed, line)
    how = [repr(value.partition("how=")[2]) for value in chosen if ".how=" in value]
    options = f"how={how[0]}" if how else "none"
    assert printed[-1] == f"{RAISED_BY}{origin}, options: {options}"


def test_an_error_that_a_user_can_fix_is_one_line_all_the_same_and_broken_plugins_stop_nothing(
    site: Site, own_copy: Path, prompt: Path
) -> None:
    site.install("faulty", FAULTY)
    site.install("broken", "raise SystemExit(5)")
    assert promptbake("bake", prompt, *MOCK).code == 0
    complaint = promptbake("bake", prompt, *MOCK, *settings(*loss("user"))).complaint
    assert complaint == "options.losses.faulty.how: choose another"


def test_a_crash_in_the_core_blames_no_plugin(with_data: Path, prompt: Path) -> None:
    (with_data / "report.html").mkdir()
    assert not has(crash("bake", prompt, *MOCK), "plugin")


# Objects behind their wrappers, where one plugin works on another's.


class FailingRenderer(ChatRenderer):
    """Fails where it is to decode; it may be called, as tokenizers may."""

    def __call__(self) -> None:
        """Nothing."""

    def text(self, tokens: Sequence[int]) -> str:
        raise ZeroDivisionError


class FailingModel:
    """Fails after the first response that is sampled from it."""

    sample_batch, context_tokens, top_k = 1, 2048, None
    renderer = FailingRenderer(tiny_tokenizer(), NAME, frozenset())

    def sample(self, *arguments: Any, **options: Any) -> Iterator[Any]:
        yield 0, Completion((), True)
        raise ZeroDivisionError


class FailingBackend:
    """Opens such a model, and gives one as a trainer would."""

    def open_model(self, name: str, budget: Any = None) -> Any:
        return FailingModel()

    def snapshot(self) -> ImmediateResult[Any]:
        return ImmediateResult(self.open_model(NAME))


class FailingLoss(ForwardKL):
    """Fails where a backend computes its gradient."""

    def __call__(self, student: Any, teacher: Any, importance_weights: Any) -> Any:
        raise ZeroDivisionError


class Raising:
    """Raises what it is given."""

    @property
    def kind(self) -> str:
        raise ZeroDivisionError

    def raise_(self, error: BaseException) -> None:
        raise error


class NoNotesError(Exception):
    """Takes no notes."""

    def add_note(self, note: str) -> None:
        raise TypeError


def notes(work: Callable[[], object], kind: type[Exception] = ZeroDivisionError) -> list[str]:
    """The notes on the error that some work ends with."""
    with pytest.raises(kind) as caught:
        work()
    return getattr(caught.value, "__notes__", [])


def job(model: Model) -> GenerationJob:
    request = GenerationRequest("r", Query("q", (Message("user", "Who?"),)), 1.0)
    prompt = Prompt("p", "Be brief.")
    return GenerationJob(prompt, (request,), frozenset(), 4, 0, lambda: model, NoBudget())


def test_a_model_that_fails_inside_a_provider_is_its_backends_fault() -> None:
    backend = attributed(FailingBackend(), "backend")
    provider = attributed(SelfProvider(), "provider")
    for model in (backend.open_model(NAME), backend.snapshot().result()):
        assert isinstance(model, FailingModel)
        items = provider.generate(job(model))
        assert notes(lambda items=items: next(items)) == ["promptbake: raised by backend"]
        sampled = model.sample([])
        assert next(sampled) == (0, Completion((), True))
        assert notes(lambda sampled=sampled: next(sampled)) == ["promptbake: raised by backend"]
        assert notes(lambda model=model: model.renderer.text(())) == [
            "promptbake: raised by backend"
        ]


def test_a_loss_that_fails_inside_a_backend_is_the_losss_fault() -> None:
    backend = attributed(tiny_backend(), "backend")
    objective = TailedLoss(attributed(FailingLoss(), "loss"), "drop")
    student = backend.new_lora(backend.open_model(NAME), rank=2, seed=0)
    one = torch.ones(1, 1)
    batch = [Example(Datum("c", "q", (7, 1), (8, 1), 1), LossSupport(one.long(), -one, one))]
    work = lambda: student.forward_backward(batch, objective).result()  # noqa: E731
    assert notes(work) == ["promptbake: raised by loss"]


def test_an_error_of_a_plugin_has_a_note_and_one_for_the_user_has_none() -> None:
    wrapped = attributed(Raising(), "it")
    note = ["promptbake: raised by it"]
    assert notes(lambda: wrapped.kind) == note
    assert notes(lambda: wrapped.raise_(SystemExit(3)), RuntimeError) == note
    assert notes(lambda: wrapped.raise_(BakeError("mend it")), BakeError) == []
    assert notes(lambda: wrapped.raise_(NoNotesError()), NoNotesError) == []
    with pytest.raises(KeyboardInterrupt):
        wrapped.raise_(KeyboardInterrupt())
    contract = contract_error(wrapped, "gave 3")
    assert str(contract) == f"{__name__}.Raising: gave 3"
    assert contract.__notes__ == note


def test_a_wrapper_passes_everything_on() -> None:
    loss = ForwardKL()
    wrapped = attributed(loss, "it")
    assert isinstance(wrapped, ForwardKL)
    assert repr(wrapped) == repr(loss)
    assert wrapped.support == "teacher"
    raising = Raising()
    attributed(raising, "it").extra = 3  # type: ignore[attr-defined]
    assert vars(raising) == {"extra": 3}
    with pytest.raises(AttributeError) as caught:
        wrapped.nothing  # type: ignore[attr-defined]  # noqa: B018
    assert "nothing" in str(caught.value)
