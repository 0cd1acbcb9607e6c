"""Whose code failed: a note on an error that came out of a plugin."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from types import FrameType

from promptbake.errors import BakeError, ContractError
from promptbake.plugins.factories import PluginFactory


@dataclass
class Use:
    """An offer that is in use, with the options that it was made with."""

    offer: PluginFactory
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
        return frozenset(module.partition(".")[0] for module in modules) - {"", "builtins"}


def attribute(error: BaseException, uses: Sequence[Use]) -> None:
    """Note on an error in which plugin it was raised, or which one was at work.

    A ContractError knows whose it is. Else it is the plugin whose object's method was innermost,
    or whose package's function was; else the one whose object our innermost function had in
    hand. A BakeError speaks for itself.
    """
    if isinstance(error, BakeError):
        return
    frames = list(_frames(error))[::-1]  # the innermost first
    what = "this is a plugin's"
    if isinstance(error, ContractError):
        guilty = [use for use in uses if use.product is error.product]
    else:
        guilty = _raised_in(frames, uses)
    if not guilty:
        guilty, what = _at_work(frames, uses), "a plugin was at work"
    if guilty:
        origins = "; or ".join(use.origin for use in guilty)
        with suppress(Exception):  # a stranger's exception may refuse
            error.add_note(f"promptbake: {what}: {origins}")


def _raised_in(frames: Sequence[FrameType], uses: Sequence[Use]) -> list[Use]:
    """The plugins in whose code it was raised."""
    for frame in frames:
        if called := _called(frame, uses):  # maybe by a method that it inherits from another
            return called
        package = frame.f_globals.get("__name__", "").partition(".")[0]
        if found := [use for use in uses if package in use.packages]:
            # A package may offer several things: one of them may be the object that was called.
            outer = (_called(each, found) for each in frames)
            return next(filter(None, outer), found)
    return []


def _called(frame: FrameType, uses: Sequence[Use]) -> list[Use]:
    product = frame.f_locals.get("self")
    return [use for use in uses if product is not None and use.product is product]


def _at_work(frames: Sequence[FrameType], uses: Sequence[Use]) -> list[Use]:
    """The plugin whose object the innermost function has in a variable."""
    values = list(frames[0].f_locals.values()) if frames else []
    for use in uses:
        if use.product is not None and any(value is use.product for value in values):
            return [use]
    return []


def _frames(error: BaseException) -> Iterator[FrameType]:
    trace = error.__traceback__
    while trace is not None:
        yield trace.tb_frame
        trace = trace.tb_next
