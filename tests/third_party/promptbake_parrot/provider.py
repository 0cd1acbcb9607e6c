"""A data provider: the longest of several answers of the prompted base model."""

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
    Work,
    derive,
)


class Longest:
    """Asks `tries` times for each request, in one call."""

    def __init__(self, tries: int) -> None:
        self._tries = tries

    def queries(self) -> Sequence[Query]:
        """None of its own."""
        return ()

    def estimate_cost(self, job: GenerationJob) -> CostEstimate:
        """What the base model asks for all tries."""
        model = job.open_model()
        rows = tuple(
            (len(model.renderer.prompt(request.query.messages, job.prompt.text)), job.max_tokens)
            for request in self._wanted(job)
        )
        return model.estimate_cost(Work("sample", rows * self._tries))

    def generate(self, job: GenerationJob) -> Iterator[Conversation]:
        """One conversation a request."""
        if job.turns != 1:
            raise BakeError(f"data.turns = {job.turns}: parrot gives one answer a conversation")
        model = job.open_model()
        return (self._answer(model, job, request) for request in self._wanted(job))

    def _wanted(self, job: GenerationJob) -> list[GenerationRequest]:
        return [request for request in job.requests if request.id not in job.completed_ids]

    def _answer(self, model: Model, job: GenerationJob, request: GenerationRequest) -> Conversation:
        prompt = model.renderer.prompt(request.query.messages, job.prompt.text)
        found = model.sample(
            [prompt] * self._tries,
            max_tokens=job.max_tokens,
            temperatures=[request.temperature] * self._tries,
            seeds=[derive(job.seed, "parrot", request.id, number) for number in range(self._tries)],
        )
        _, best = max(found, key=lambda each: (len(each[1].tokens), -each[0]))
        answer = Message("assistant", model.renderer.text(best.tokens))
        messages = (*request.query.messages, answer)
        meta = {"temperature": request.temperature, "tries": self._tries}
        return Conversation(request.id, request.query.id, messages, best.complete, meta)
