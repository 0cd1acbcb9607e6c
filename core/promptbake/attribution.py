"""Whose code failed: a note on an error that came out of a plugin."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from types import FrameType

from promptbake.errors import BakeError, ContractError
from promptbake.offers import Offer


@dataclass
class Use:
    """An offer that is in use, with the options that it was made with."""

    offer: Offer
    options: Mapping[str, object]
    product: object = None  # what its factory made; None while it is at it

    @property
    def origin(self) -> str:
        """Which plugin, hook, version and options."""
        options = ", ".join(f"{name}={value!r}" for name, value in self.options.items())
        return f"{self.offer.origin}, options: {options or 'none'}"

    @property
    def packages(self) -> frozenset[str]:
        """The packages that its code is in."""
        modules = (self.offer.module, type(self.product).__module__)
        return frozenset(module.partition(".")[0] for module in modules) - {"builtins", ""}


def attribute(error: BaseException, uses: Sequence[Use]) -> None:
    """Note on an error in which plugin it was raised, if it was in one.

    A ContractError knows whose it is; else the innermost function of a plugin's package decides. A
    BakeError speaks for itself.
    """
    if isinstance(error, BakeError):
        return
    guilty = _guilty(error, uses)
    if guilty:
        origins = "; or ".join(use.origin for use in guilty)
        error.add_note(f"promptbake: this is a plugin's: {origins}")


def _guilty(error: BaseException, uses: Sequence[Use]) -> list[Use]:
    if isinstance(error, ContractError):
        return [use for use in uses if use.product is error.product]
    frames = list(_frames(error))
    for frame in reversed(frames):
        package = frame.f_globals.get("__name__", "").partition(".")[0]
        if found := [use for use in uses if package in use.packages]:
            # A package may offer several things: one of them may be the object that was called.
            selves = [each.f_locals.get("self") for each in frames]
            called = [use for use in found if any(use.product is each for each in selves if each)]
            return called or found
    return []


def _frames(error: BaseException) -> Iterator[FrameType]:
    trace = error.__traceback__
    while trace is not None:
        yield trace.tb_frame
        trace = trace.tb_next
