"""A good backend for faulty ones to be made of: the one that `promptbake new-plugin` writes."""

from __future__ import annotations

import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from importlib.resources import files
from types import ModuleType
from typing import Any

import torch
from faulty_suites import Fault

from promptbake.testing import BackendSuite

TEMPLATE = files("promptbake") / "templates" / "plugin" / "backends.py.j2"

toy = sys.modules["toy"] = ModuleType("toy")
exec(
    TEMPLATE.read_text("utf-8").replace("{{ name }}", "toy").replace("{{ Name }}", "Toy"), vars(toy)
)

Toy, Model, Trainer, Renderer = toy.Toy, toy.ByteModel, toy.ByteTrainer, toy.ByteRenderer
DOWN, UP, END = toy.DOWN, toy.UP, toy.END


class SamplesWell(Model):
    """Samples as the good model does, whatever its stream is."""

    def sample(self, *arguments: Any, **options: Any) -> Any:
        return Model().with_lora(self.delta).sample(*arguments, **options)


@dataclass(frozen=True)
class Late:
    """A result that is worked out when it is waited for."""

    result: Callable[[], Any]


class ToySuite(BackendSuite):
    takes_any_name = True
    lr = 0.1


def backend_with(part: type) -> Any:
    """A toy backend with models, renderers or trainers of this class; or one of this class."""
    if issubclass(part, Toy):
        return part()
    if issubclass(part, Renderer):
        part = type("Rendered", (Model,), {"renderer": part()})
    backend = Toy()
    if issubclass(part, Trainer):
        backend.new_lora = lambda base, *, rank, seed, start=None: part(base, rank, seed, start)
    else:
        backend.open_model = lambda name, budget: part()
    return backend


def faults(caught_by: str, **members_by_name: Mapping[str, Any]) -> list[Fault]:
    """Mistakes that one test catches: what replaces the good class's members, by their names."""
    return [Fault(name, caught_by, members) for name, members in members_by_name.items()]


def after(method: Callable[..., Any], change: Callable[..., Any]) -> Callable[..., Any]:
    """The method with another result: `change` is called with self and the good one."""

    def member(self: Any, *arguments: Any, **options: Any) -> Any:
        return change(self, method(self, *arguments, **options))

    return member


def same(value: Any) -> Any:
    return value


def passing(method: Callable[..., Any], **changes: Callable[[Any], Any]) -> Callable[..., Any]:
    """The method, called with other keyword arguments: each a function of the good one."""

    def member(self: Any, *arguments: Any, **options: Any) -> Any:
        changed = {name: changes.get(name, same)(value) for name, value in options.items()}
        return method(self, *arguments, **changed)

    return member


def add_to_the_weights(trainer: Any, much: float) -> Sequence[str]:
    with torch.no_grad():
        for weight in trainer.weights.values():
            weight.add_(much * torch.randn(weight.shape))
    return ()
