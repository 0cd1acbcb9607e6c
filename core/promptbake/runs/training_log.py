"""What is kept and shown while a bake trains: the held-out curve, states, trackers, the loss."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from functools import cache

from promptbake.distill import checkpoints
from promptbake.distill.held_out_kl import StoredKL
from promptbake.errors import BakeError
from promptbake.interfaces import Model, Pending, Tracker, Trainer, TrainingState
from promptbake.runs.session import Session
from promptbake.types import KLByConversation, Tail


class Curve:
    """The held-out curve: training does not end because a point could not be measured.

    Args:
        session: The run.
        kls: The held-out KL of each target.
        first_weights: The weights before step 0. A fresh LoRA is exactly the base model, since its
            B is 0, so `verify` reads the first point as the base model's KL.
    """

    def __init__(self, session: Session, kls: Sequence[StoredKL], first_weights: str) -> None:
        self._session, self._kls, self._first_weights = session, kls, first_weights
        self._points = self._missing = 0
        self._last = -1, list[KLByConversation]()  # its step, and its KL of each target

    def begin(self, student: Trainer) -> float | None:
        """The point before training, nats per response token; None where it was not measured."""
        snapshot = cache(lambda: student.snapshot().result())
        return self._point(0, lambda kl: kl.unprompted(self._first_weights, snapshot))

    def measure(self, step: int, snapshot: Pending[Model]) -> float | None:
        """Nats per response token; None where it could not be measured."""
        return self._point(step, lambda kl: kl.held_out_kl.unprompted(snapshot.result()))

    def keep_last(self, step: int, weights: str) -> None:
        """Store the last point as the KL of the weights that were saved after this step."""
        last_step, parts = self._last
        if last_step == step:
            for kl, part in zip(self._kls, parts, strict=True):
                kl.keep_unprompted(weights, part)

    def _point(self, step: int, measure: Callable[[StoredKL], KLByConversation]) -> float | None:
        self._points += 1
        try:
            parts = [measure(kl) for kl in self._kls]
        except BakeError as error:
            self._missing += 1
            self._session.reporter.say(f"held-out KL not measured at step {step}: {error}")
            return None
        self._last = step, parts
        nats, tokens = (
            sum((getattr(part, name) for part in parts), ()) for name in ("nats", "tokens")
        )
        return KLByConversation(nats, tokens).per_token

    def report(self) -> None:
        """Say how many points are missing, if any."""
        if self._missing:
            self._session.reporter.say(
                f"held-out curve: {self._missing} of {self._points} points could not be measured"
            )


@contextmanager
def tracked(session: Session, trackers: Sequence[Tracker], first: int) -> Iterator[None]:
    """The trackers follow the run from step `first` on, until it has ended or failed."""
    with ExitStack() as ending:
        for tracker in trackers:
            with session.run.recording_files():
                tracker.start(session.run.path, session.config.model_dump(mode="json"), first)
            ending.callback(tracker.finish)
        yield


def keep_state(session: Session, step: int, state: Pending[TrainingState]) -> bool:
    """Keep a state to resume from; training does not end because one could not be saved."""
    try:
        files = state.result()
    except BakeError as error:
        session.reporter.say(f"the state after step {step} is not kept: {error}")
        return False
    checkpoints.save(session.run.checkpoints, step, files)
    return True


def loss_note(loss: float | None, tail: Tail) -> str:
    """The step's loss; with the reason where it is below 0, as no KL is."""
    if loss is None:
        return ""
    note = f"{loss:.3f} nats/token"
    if loss >= 0:
        return note
    if tail == "sampled":
        return f"{note} (estimated by draws, so it may be below 0; the KL is not)"
    return f"{note} (no KL: train.tail = {tail!r})"
