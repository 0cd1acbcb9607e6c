"""A third-party distribution that uses each capability of API 2, by public names alone."""

from __future__ import annotations

from typing import Annotated

from promptbake import Backend, Evaluator, Factories, Help, Loss, Session, hookimpl

PROMPTBAKE_API = 2


def perplexity(*, text: str = "Arr, the moon does it!", dollars: float = 0.0) -> Evaluator:
    """Perplexity of a text and of held-out responses; `dollars` are paid for each item."""
    from promptbake_spikes.evaluator import Perplexity

    return Perplexity(text, dollars)


def student_reverse_kl() -> Loss:
    """KL(student || teacher), on the student's own top tokens."""
    from promptbake_spikes.on_policy import StudentReverseKL

    return StudentReverseKL()


def in_numpy() -> Backend:
    """The toy backend of the template, trained without autograd."""
    from promptbake_spikes.numpy_backend import NumpyBackend

    return NumpyBackend()


def word_count(
    session: Session, least: Annotated[int, Help("The least length.", min=1)] = 1
) -> None:
    """Count the words of the prompt."""
    words = [word for word in session.prompt.text.split() if len(word) >= least]
    print(f"{session.prompt.name}: {len(words)} words")  # noqa: T201


def hello(name: str = "you") -> None:
    """Greet, without a run."""
    print(f"hello, {name}")  # noqa: T201


@hookimpl
def promptbake_register_evaluators() -> Factories[Evaluator]:
    """The evaluator `perplexity`."""
    return {"perplexity": perplexity}


@hookimpl
def promptbake_register_losses() -> Factories[Loss]:
    """The loss `student_reverse_kl`."""
    return {"student_reverse_kl": student_reverse_kl}


@hookimpl
def promptbake_register_backends() -> Factories[Backend]:
    """The backend `in_numpy`."""
    return {"in_numpy": in_numpy}


@hookimpl
def promptbake_register_commands() -> Factories[None]:
    """The commands `word-count` and `hello`."""
    return {"word-count": word_count, "hello": hello}
