"""The teacher's scores of the responses that it samples itself, stored with the conversations."""

from __future__ import annotations

from functools import cached_property, partial

from promptbake.dataset.alignment import align
from promptbake.dataset.model_teacher import ModelTeacher
from promptbake.distill.objective import TailedLoss
from promptbake.distill.target_store import TargetStore, draw_seed
from promptbake.errors import BakeError
from promptbake.interfaces import ResponseScores
from promptbake.runs.scoring import choose_tail, stored_teacher
from promptbake.runs.session import Session
from promptbake.types import Completion, Conversation, TeacherLogprobs


class SampledTargets:
    """Scores that wait for their conversation to be accepted; `bake` then finds them stored."""

    def __init__(self, session: Session) -> None:
        self._session = session
        self._targets = {target.name: target for target in session.targets}
        self._waiting: dict[str, tuple[Completion, TeacherLogprobs]] = {}

    @property
    def wanted(self) -> ResponseScores | None:
        """What is to be scored while the model samples.

        None where the teacher is not the model that is sampled, or the loss asks no teacher.
        """
        config = self._session.config
        if not taken_while_sampling(self._session):
            return None
        seed = partial(draw_seed, config.seed)
        return ResponseScores(config.teacher.top_k, self._draws, seed, self._take)

    def store(self, conversation: Conversation) -> None:
        """Store the scores of a conversation that is trained on, if its tokens are those sampled.

        What is cleaned has other tokens, and so have some bytes that are no text; these are scored
        in a pass of their own.
        """
        completion, scores = self._waiting.pop(conversation.id, (None, None))
        if completion is None or scores is None:
            return
        datum = align(conversation, self._targets[conversation.target], self._session.base)
        # The end-of-turn token predicts nothing, so any of the model's will do.
        tokens = datum.response_ids[: len(completion.tokens)]
        if tokens == completion.tokens and datum.n_response == len(scores.ids):
            self._store.put(datum, scores)

    def drop(self, conversation_id: str) -> None:
        """Forget the scores of what is not trained on."""
        self._waiting.pop(conversation_id, None)

    def _take(self, request_id: str, completion: Completion, scores: TeacherLogprobs) -> None:
        self._waiting[request_id] = completion, scores

    @cached_property
    def _store(self) -> TargetStore:
        return stored_teacher(self._session).store(self._draws)

    @cached_property
    def _draws(self) -> int:
        objective = TailedLoss(self._session.loss, choose_tail(self._session).tail)
        return objective.draws(self._session.config.train.tail_draws)


def taken_while_sampling(session: Session) -> bool:
    """Whether the teacher is the model that samples, and the loss is evaluated on its top K.

    Where the loss or the teacher cannot be created, `bake` says why.
    """
    try:
        return session.loss.support == "teacher" and isinstance(session.teacher(), ModelTeacher)
    except BakeError:
        return False
