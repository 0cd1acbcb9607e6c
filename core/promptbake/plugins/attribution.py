"""Which plugin failed: each plugin's object is called through a wrapper that knows its factory."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager, suppress
from typing import Any, TypeVar, cast

from promptbake.errors import BakeError, ContractError
from promptbake.redaction import redact_error

T = TypeVar("T")
# Methods whose results call the plugin's code in turn, so they are wrapped, too.
WRAPPED = frozenset(
    {
        "forward_backward",
        "load_adapter",
        "new_lora",
        "open_model",
        "open_renderer",
        "optim_step",
        "save_state",
        "snapshot",
    }
)
# Methods that give several items, which the core iterates over.
ITERATED = frozenset(
    {
        "evaluate",
        "generate",
        "logprobs",
        "queries",
        "sample",
        "sample_with_top_k",
        "score",
        "stream",
        "top_k",
    }
)


def attributed(product: T, origin: str) -> T:
    """The plugin's object, behind a wrapper that notes `origin` on each error that it raises."""
    return cast(T, _Attributed(product, origin))


@contextmanager
def attribute(origin: str) -> Iterator[None]:
    """Note on an error that this is the plugin which raised it; the innermost plugin counts.

    A BakeError speaks for itself. No error holds a key. A SystemExit becomes a RuntimeError: a
    plugin does not end the program.
    """
    try:
        yield
    except BakeError as error:
        redact_error(error)
        raise
    except SystemExit as end:
        failure = RuntimeError(f"SystemExit: {end}").with_traceback(end.__traceback__)
        redact_error(failure)
        note(failure, origin)
        raise failure from None
    except Exception as error:
        redact_error(error)
        note(error, origin)
        raise


def note(error: BaseException, origin: str) -> None:
    """Add the note, unless there is one of a plugin further in."""
    with suppress(Exception):  # a third-party exception may refuse notes
        if not any(line.startswith("promptbake:") for line in getattr(error, "__notes__", ())):
            error.add_note(f"promptbake: raised by {origin}")


def contract_error(product: object, problem: str) -> ContractError:
    """The error for what a plugin's object returned, with a note that names the plugin."""
    error = ContractError(product, problem)
    if isinstance(origin := getattr(product, "promptbake_origin", None), str):
        note(error, origin)
    return error


class _Attributed:
    """Forwards everything; `isinstance` sees the class of the object behind it."""

    def __init__(self, product: object, origin: str) -> None:
        object.__setattr__(self, "_product", product)
        object.__setattr__(self, "promptbake_origin", origin)

    @property
    def __class__(self) -> Any:  # a backend may ask for its own class of model
        return self._product.__class__

    @__class__.setter
    def __class__(self, _: Any) -> None:
        raise AttributeError("the class of a plugin's object is its own")

    def __getattr__(self, name: str) -> Any:
        product, origin = self._product, self.promptbake_origin
        with attribute(origin):
            value = getattr(product, name)
        if name == "renderer":  # a property, whose value may be callable, as tokenizers are
            return _Attributed(value, origin)
        if name.startswith("_") or not callable(value):
            return value
        return _called(self, value, name)

    def __setattr__(self, name: str, value: object) -> None:
        setattr(self._product, name, value)

    def __call__(self, *arguments: Any, **options: Any) -> Any:
        with attribute(self.promptbake_origin):
            return self._product(*arguments, **options)

    def __repr__(self) -> str:
        return repr(self._product)


def _called(wrapper: _Attributed, function: Callable[..., Any], name: str) -> Callable[..., Any]:
    origin = wrapper.promptbake_origin

    def call(*arguments: Any, **options: Any) -> Any:
        with attribute(origin):
            value = function(*arguments, **options)
        if isinstance(value, Iterator):
            return _iterated(value, origin)
        if name in ITERATED and not isinstance(value, Iterable):
            raise contract_error(wrapper, f"{name} gave {value!r}: expected items to iterate over")
        # What a pending snapshot gives is a model.
        wrapped = name in WRAPPED or (name == "result" and hasattr(value, "top_k"))
        return _Attributed(value, origin) if wrapped else value

    return call


def _iterated(items: Iterator[T], origin: str) -> Iterator[T]:
    while True:
        with attribute(origin):
            try:
                item = next(items)
            except StopIteration:
                return
        yield item
