"""A data provider: the longest of several responses of the prompted base model."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from promptbake import (
    BakeError,
    Conversation,
    CostEstimate,
    GenerationJob,
    GenerationRequest,
    Message,
    Model,
    Query,
    SampleWork,
    TokenIds,
    derive,
)


class Longest:
    """Samples `tries` responses to each request, in one call."""

    def __init__(self, tries: int) -> None:
        self._tries = tries

    def queries(self) -> Sequence[Query]:
        """None of its own."""
        return ()

    def estimate_cost(self, job: GenerationJob) -> CostEstimate:
        """What the base model estimates for all tries."""
        model = job.open_model()
        rows = tuple(
            (len(_prompt(model, job, request)), job.max_tokens) for request in _missing(job)
        )
        return model.estimate_cost(SampleWork(rows, times=self._tries))

    def generate(self, job: GenerationJob) -> Iterator[Conversation]:
        """One conversation for each request."""
        if job.turns != 1:
            raise BakeError(f"data.turns = {job.turns}: example gives one answer a conversation")
        model = job.open_model()
        return (self._answer(model, job, request) for request in _missing(job))

    def _answer(self, model: Model, job: GenerationJob, request: GenerationRequest) -> Conversation:
        completions = model.sample(
            [_prompt(model, job, request)] * self._tries,
            max_tokens=job.max_tokens,
            temperatures=[request.temperature] * self._tries,
            seeds=[derive(job.seed, "example", request.id, n) for n in range(self._tries)],
        )
        _, longest = max(completions, key=lambda pair: (len(pair[1].tokens), -pair[0]))
        answer = Message("assistant", model.renderer.text(longest.tokens))
        messages = (*request.query.messages, answer)
        meta = {"temperature": request.temperature, "tries": self._tries}
        return Conversation(request.id, request.query.id, messages, longest.complete, meta)


def _missing(job: GenerationJob) -> list[GenerationRequest]:
    return [request for request in job.requests if request.id not in job.completed_ids]


def _prompt(model: Model, job: GenerationJob, request: GenerationRequest) -> TokenIds:
    return model.renderer.prompt(request.query.messages, job.prompt.system)
