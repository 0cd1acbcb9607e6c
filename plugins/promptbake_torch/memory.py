"""How much memory a piece of work needs, estimated from the model's sizes."""

from __future__ import annotations

import math
from typing import Any

from promptbake import SampleWork, TrainWork, WorkItem

RUNTIME_BYTES = 6e8  # Python, torch, transformers
LOGIT_COPIES = 4  # logits, log-probabilities, and what a gradient or a draw needs of them
HIDDEN_COPIES = 12  # activations of a layer that are as wide as the model
INNER_COPIES = 4  # and as wide as its MLP


def memory_bytes(module: Any, work: WorkItem, sample_batch: int, *, shares: bool) -> float:
    """The most that the work needs at a time: weights, activations, caches and logits.

    Measured on the embedded model, it is within a third of the largest resident size.

    Args:
        module: The model.
        work: Its rows' lengths, in tokens.
        sample_batch: How many prompts are sampled at a time.
        shares: Whether a prefix is stored once for all rows. How long it is is not known here: the
            shortest prompt's length is taken.
    """
    config = module.config.get_text_config()
    weights = float(sum(each.numel() * each.element_size() for each in module.parameters()))
    if not work.rows:
        return RUNTIME_BYTES + weights
    size: int = next(module.parameters()).element_size()
    length, response = (max(sizes) for sizes in zip(*work.rows, strict=True))
    if isinstance(work, SampleWork):
        rows = min(sample_batch, len(work.rows))
        heads = getattr(config, "num_key_value_heads", None) or config.num_attention_heads
        width = getattr(config, "head_dim", None) or config.hidden_size / config.num_attention_heads
        cached: float = 2 * config.num_hidden_layers * heads * width * size  # bytes a token
        shared = min(length for length, _ in work.rows) if shares else 0
        cache: float = (shared + rows * (length - shared + response)) * cached
        logits: float = rows * config.vocab_size * 4 * LOGIT_COPIES
        return RUNTIME_BYTES + weights + cache + logits
    logits = response * config.vocab_size * 4 * LOGIT_COPIES
    if not isinstance(work, TrainWork):
        return RUNTIME_BYTES + weights + logits
    rows = math.ceil(len(work.rows) * work.times / work.steps) if work.steps else 1
    inner = getattr(config, "intermediate_size", 4 * config.hidden_size)
    floats: float = HIDDEN_COPIES * config.hidden_size + INNER_COPIES * inner
    floats += 2 * config.num_attention_heads * length
    activations: float = config.num_hidden_layers * floats * length * size
    return RUNTIME_BYTES + weights + rows * (logits + activations)
