"""How likely an arm finds given responses."""

from __future__ import annotations

from collections.abc import Sequence

import torch

from promptbake import (
    Arm,
    BakeTarget,
    Conversation,
    EvalContext,
    MeasurementStore,
    Prompt,
    Span,
    align,
)
from promptbake_fidelity.store import weights_of


def spans_of(context: EvalContext, arm: Arm, conversations: Sequence[Conversation]) -> list[Span]:
    """The conversations as the arm reads them; each one's last turn is the response."""
    model, prompt = context.arms[arm].open_model(), Prompt("", context.arms[arm].system or "")
    target = BakeTarget("", prompt, prompt)
    return [align(each, target, model).student for each in conversations]


def response_logprobs(
    context: EvalContext, arm: Arm, conversations: Sequence[Conversation], store: MeasurementStore
) -> list[tuple[float, int]]:
    """The log-probability of each conversation's response, in nats, and its number of tokens."""
    spans = spans_of(context, arm, conversations)
    rows = [(span.tokens, span.n_response) for span in spans]
    key = store.key(weights=weights_of(context, arm), response_logprobs=rows)
    nats = store.numbers(key)
    if nats is None:
        ids = [torch.tensor(span.tokens[-span.n_response :]).unsqueeze(1) for span in spans]
        scored = context.arms[arm].open_model().logprobs(spans, ids)
        nats = tuple(float(row.sum()) for row in scored)  # of [N, 1] each
        store.put_numbers(key, nats)
    return [(each, span.n_response) for each, span in zip(nats, spans, strict=True)]
