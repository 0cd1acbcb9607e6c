"""What all conformance suites share: capability flags, and waivers that give their reason."""

from __future__ import annotations

import inspect
import signal
import sys
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar, TypeVar

import pytest

if TYPE_CHECKING:
    from _pytest.mark import Mark

Test = TypeVar("Test", bound=Callable[..., object])
WAIVER = '@pytest.mark.xfail(reason="...")'


@contextmanager
def noted(note: str) -> Iterator[None]:
    """Add a note to an error that comes out of the block; pytest shows it below the error."""
    try:
        yield
    except Exception as error:
        error.add_note(note)
        raise


def only_if(flag: str, value: bool = True) -> Callable[[Test], Test]:
    """Collect a test only for a suite whose capability flag is true (or false). Can be stacked."""

    def mark(test: Test) -> Test:
        flags = {**getattr(test, "promptbake_flags", {}), flag: value}
        test.promptbake_flags = flags  # type: ignore[attr-defined]
        return test

    return mark


@dataclass(frozen=True)
class NotCollected:
    """A test in a suite whose capability flags rule it out."""

    function: Callable[..., object]
    flags: Mapping[str, bool]

    def applies_to(self, suite: type[Suite]) -> bool:
        """Whether the flags are as the test wants them."""
        return all(bool(getattr(suite, flag)) is value for flag, value in self.flags.items())


class Suite:
    """The tests that every plugin of a kind passes.

    Subclass it in a test module under a name that begins with `Test`, supply the one fixture, and
    set the flags that differ. A test that your plugin cannot pass is waived by overriding it with
    the mark xfail and a reason; anything else (skip, a body of your own, None) is refused when the
    tests are collected.
    """

    keys: ClassVar[tuple[str, ...]] = ()  # environment variables whose values are secret

    def __init_subclass__(cls, **options: Any) -> None:
        """Do not collect the tests of what the plugin does not claim to do."""
        super().__init_subclass__(**options)
        for name in (name for name in dir(cls) if name.startswith("test_")):
            test = inspect.getattr_static(cls, name)
            if isinstance(test, NotCollected) and test.applies_to(cls):
                setattr(cls, name, test.function)
            elif (flags := getattr(test, "promptbake_flags", None)) is not None:
                not_collected = NotCollected(test, flags)
                if not not_collected.applies_to(cls):
                    setattr(cls, name, not_collected)

    def pytest_generate_tests(self, metafunc: pytest.Metafunc) -> None:
        """Refuse waivers without a reason; pytest calls this for each test that it collects."""
        refusals = [*_missing(type(self)), *_waived(type(self), metafunc.definition)]
        if refusals:
            raise pytest.Collector.CollectError("\n".join(refusals))

    @pytest.fixture(autouse=True)
    def _process_state_stays_unchanged(self) -> Iterator[None]:
        """Fail a test in which the plugin changed what all code of a process shares."""
        before = _shared()
        yield
        changed = [name for name, state in _shared().items() if state != before.get(name, state)]
        if changed:
            import torch

            torch.set_grad_enabled(True)
            torch.set_default_dtype(torch.float32)
        assert not changed, (
            f"the plugin changed {', '.join(changed)}, which the whole process shares: use a "
            "context manager, such as torch.no_grad"
        )


def _shared() -> dict[str, object]:
    states: dict[str, object] = {"the handler of SIGTERM": signal.getsignal(signal.SIGTERM)}
    if torch := sys.modules.get("torch"):
        states["gradients"] = torch.is_grad_enabled()
        states["torch's default dtype"] = torch.get_default_dtype()
    return states


def _inherited(suite: type[Suite]) -> Iterator[tuple[str, object]]:
    """The tests of the suites that ship with promptbake, by name."""
    for base in suite.__mro__:
        if issubclass(base, Suite) and base.__module__.startswith("promptbake.testing."):
            for name, test in vars(base).items():
                if name.startswith("test_"):
                    yield name, test


def _missing(suite: type[Suite]) -> Iterator[str]:
    for name, _ in _inherited(suite):
        test = inspect.getattr_static(suite, name)
        if not inspect.isfunction(test) and not isinstance(test, NotCollected):
            yield f"{suite.__name__}.{name} is no test any more; waive it by {WAIVER}"


def _waived(suite: type[Suite], item: pytest.Item) -> Iterator[str]:
    name = item.name
    where = f"{suite.__name__}.{name}"
    ours = dict(_inherited(suite)).get(name)
    if ours is None:  # a test of the author's own
        return
    if isinstance(ours, NotCollected):  # where the flag is as the suite has it
        ours = ours.function
    for mark in (*item.iter_markers("skip"), *item.iter_markers("skipif")):
        yield f"{where} is waived by {mark.name}; waive it by {WAIVER}"
    waivers = list(item.iter_markers("xfail"))
    for mark in waivers:
        if not _reason(mark):
            yield f"{where} is waived without a reason; waive it by {WAIVER}"
    if not waivers and getattr(suite, name) is not ours:
        yield f"{where} replaces a test of the suite; waive it by {WAIVER}"


def _reason(mark: Mark) -> str:
    reason = mark.kwargs.get("reason", "")
    return reason.strip() if isinstance(reason, str) else ""
