"""The KL of arms from a reference arm, on conversations that both read under their own prompts."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from promptbake import (
    Arm,
    BakeTarget,
    Conversation,
    CostEstimate,
    Datum,
    EvalContext,
    HeldOutKL,
    LogprobsWork,
    MeasurementStore,
    Prompt,
    StoredKL,
    TopKWork,
    align,
)
from promptbake_fidelity.store import weights_of

TOP_K = 20  # of a model that does not give the whole vocabulary

Lengths = tuple[int, int]  # tokens of a sequence, and tokens of its response


class ArmKL:
    """KL(reference || arm) on the last turn of each conversation.

    Over the whole vocabulary; or, where the model does not give it, over the reference's top 20
    with the rest in one bucket, a lower bound. What was measured before is read from the store.

    Args:
        context: The evaluator's.
        reference: The arm whose distributions are approached.
        conversations: Each ends with the assistant's turn that is scored.
        store: The evaluator's.
    """

    def __init__(
        self,
        context: EvalContext,
        reference: Arm,
        conversations: Sequence[Conversation],
        store: MeasurementStore,
    ) -> None:
        self._context, self._reference, self._store = context, reference, store
        self._conversations = conversations
        self._by_system: dict[str | None, StoredKL] = {}

    def of(self, name: Arm) -> dict[str, float]:
        """Nats per response token of each conversation, by its id."""
        arm = self._context.arms[name]
        stored = self._by_system.get(arm.system) or self._open(arm.system)
        kl = stored.unprompted(weights_of(self._context, name), arm.open_model)
        return {
            datum.conversation_id: nats / tokens
            for datum, nats, tokens in zip(stored.datums, kl.nats, kl.tokens, strict=True)
        }

    def _open(self, system: str | None) -> StoredKL:
        """What measures arms under this prompt, which share the reference's distributions."""
        reference = self._context.arms[self._reference]
        model = reference.open_model()
        target = BakeTarget("", Prompt("", reference.system or ""), Prompt("", system or ""))
        datums = [align(each, target, model) for each in self._conversations]
        top_k = None if model.full_vocabulary else TOP_K
        depends_on = {"weights": weights_of(self._context, self._reference), "top_k": top_k}
        self._by_system[system] = StoredKL(
            lambda: self._measure(datums), datums, self._store, depends_on
        )
        return self._by_system[system]

    def _measure(self, datums: Sequence[Datum]) -> HeldOutKL:
        model = self._context.arms[self._reference].open_model()
        if model.full_vocabulary:
            return HeldOutKL(model, datums)
        spans = [datum.teacher for datum in datums]
        scores = dict(model.top_k(spans, k=TOP_K, draws=0, seeds=[0] * len(spans)))
        return HeldOutKL(model, datums, [scores[index] for index in range(len(spans))])


def kl_cost(
    context: EvalContext, reference: Arm, lengths: Mapping[Arm, Sequence[Lengths]]
) -> CostEstimate:
    """What `ArmKL` would cost, by the lengths of the spans of the reference and of each arm."""
    model = context.arms[reference].open_model()
    work = LogprobsWork if model.full_vocabulary else TopKWork
    cost = model.estimate_cost(work(tuple(lengths[reference])))
    for name, rows in lengths.items():
        if name != reference:
            cost += context.arms[name].open_model().estimate_cost(LogprobsWork(tuple(rows)))
    return cost
