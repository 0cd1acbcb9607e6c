"""What is kept and shown while a bake trains: the held-out curve, states, trackers, the loss."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager

from promptbake.distill import checkpoints
from promptbake.distill.held_out_kl import HeldOutKL
from promptbake.errors import BakeError
from promptbake.interfaces import Model, Pending, Tracker, TrainingState
from promptbake.runs.session import Session
from promptbake.types import Tail


class Curve:
    """The held-out curve: training does not end because a point could not be measured."""

    def __init__(self, session: Session, kl: HeldOutKL) -> None:
        self._session, self._kl = session, kl
        self._points = self._missing = 0

    def measure(self, step: int, snapshot: Pending[Model]) -> float | None:
        """Nats per response token; None where it could not be measured."""
        self._points += 1
        try:
            return self._kl.unprompted(snapshot.result()).per_token
        except BakeError as error:
            self._missing += 1
            self._session.reporter.say(f"held-out KL not measured at step {step}: {error}")
            return None

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
