"""Attention of many rows over a prefix that they share, which is stored and read once.

Each row attends to the prefix and to its own tokens apart, and the two are merged by the sums of
their exponentials (Hydragen, arXiv 2402.05099): nothing of the prefix is copied for a row.
Shapes: B rows of L tokens, P tokens of the prefix, G key/value heads of N query heads each, D wide.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from transformers import AttentionInterface, AttentionMaskInterface
from transformers.integrations.sdpa_attention import sdpa_attention_forward
from transformers.masking_utils import sdpa_mask

from promptbake_torch.forward import run_module

NAME = "promptbake_shared_prefix"
UNSUPPORTED = ("softcap", "s_aux", "sliding_window")  # what attention here has no part for
TOLERANCE = {torch.float32: 1e-3, torch.bfloat16: 5e-2, torch.float16: 1e-2}


@dataclass(frozen=True, eq=False)
class SharedPrefix:
    """The keys and values of one row's tokens, [1, G, P, D] for each layer."""

    layers: Sequence[tuple[Tensor, Tensor]]

    @classmethod
    def of(cls, cache: Any) -> SharedPrefix:
        """What a pass over one row left in transformers' cache."""
        return cls([(layer.keys, layer.values) for layer in cache.layers])


@dataclass(frozen=True, eq=False)
class RowPrefixes:
    """What stands before each row of a batch: groups of rows, with the prefix that they share.

    Attributes:
        groups: Of so many rows, in the batch's order; None where nothing stands before them.
    """

    groups: Sequence[tuple[SharedPrefix | None, int]]

    def of_rows(self, kept: Sequence[int]) -> RowPrefixes:
        """Of these rows alone, in their order."""
        start, groups = 0, []
        for prefix, n_rows in self.groups:
            remaining = sum(start <= row < start + n_rows for row in kept)
            start += n_rows
            if remaining:
                groups.append((prefix, remaining))
        return RowPrefixes(groups)

    def attend(self, layer: int, query: Tensor, scaling: float | None) -> tuple[Tensor, Tensor]:
        """Attention [B, G, Q, D] over each row's prefix, and its log-sum-exp [B, G, Q]."""
        start, parts = 0, []
        for prefix, n_rows in self.groups:
            rows = query[start : start + n_rows]
            start += n_rows
            parts.append(_over_prefix(prefix.layers[layer] if prefix else None, rows, scaling))
        if len(parts) == 1:
            return parts[0]
        attended, totals = zip(*parts, strict=True)
        return torch.cat(attended), torch.cat(totals)


def attend(
    module: Any,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Tensor | None,
    *,
    scaling: float | None = None,
    shared_prefix: RowPrefixes | None = None,
    **rest: Any,
) -> tuple[Tensor, None]:
    """transformers' `sdpa`; or, where a prefix is given, over it and the rows' own tokens.

    Args:
        module: The attention layer.
        query: [B, G * N, L, D].
        key: [B, G, S, D], of the rows' own tokens.
        value: As the keys.
        attention_mask: bool [B, 1, L, S] over the rows' own tokens; None for a causal one.
        scaling: Of the scores; None for 1 / sqrt(D).
        shared_prefix: What stands before the rows.
        rest: What `sdpa` takes besides.

    Returns:
        [B, L, G * N, D], and no weights.
    """
    if shared_prefix is None:
        plain: tuple[Tensor, None] = sdpa_attention_forward(
            module, query, key, value, attention_mask, scaling=scaling, **rest
        )
        return plain
    if any(rest.get(name) is not None for name in UNSUPPORTED):
        raise NotImplementedError(f"attention over a shared prefix with one of {UNSUPPORTED}")
    n_rows, n_heads, length, width = query.shape
    groups = key.shape[1]
    grouped = query.reshape(n_rows, groups, -1, width)  # [B, G, N * L, D]
    if attention_mask is None and length > 1:
        attention_mask = query.new_ones(1, 1, length, length, dtype=torch.bool).tril()
    if attention_mask is not None:
        repeats = n_heads // groups if length > 1 else 1
        attention_mask = attention_mask.repeat(1, 1, repeats, 1)
    own, own_total = _part(grouped, key, value, attention_mask, scaling)
    over, over_total = shared_prefix.attend(module.layer_idx, grouped, scaling)
    share = torch.sigmoid(over_total - own_total).unsqueeze(-1).to(own.dtype)
    merged = torch.lerp(own, over, share)
    return merged.reshape(n_rows, n_heads, length, width).transpose(1, 2).contiguous(), None


def _over_prefix(
    layer: tuple[Tensor, Tensor] | None, query: Tensor, scaling: float | None
) -> tuple[Tensor, Tensor]:
    """As `RowPrefixes.attend`, for rows [B, G, Q, D] that share a prefix, or have none."""
    if layer is None:
        return torch.zeros_like(query), query.new_full(query.shape[:3], -torch.inf).float()
    n_rows, groups, _, width = query.shape
    by_head = query.transpose(0, 1).reshape(1, groups, -1, width)  # [1, G, B * Q, D]
    over, over_total = _part(by_head, *layer, None, scaling)
    over = over.view(groups, n_rows, -1, width).transpose(0, 1)
    return over, over_total.view(groups, n_rows, -1).transpose(0, 1)


def _part(
    query: Tensor, key: Tensor, value: Tensor, mask: Tensor | None, scaling: float | None
) -> tuple[Tensor, Tensor]:
    """Attention [B, G, Q, D], and the log of the sum of exponentials [B, G, Q], float32."""
    bias = None
    if mask is not None:
        bias = torch.zeros_like(mask, dtype=query.dtype).masked_fill_(~mask, -torch.inf)
    if query.device.type == "cpu":
        flash = torch.ops.aten._scaled_dot_product_flash_attention_for_cpu
        attended, total = flash(query, key, value, attn_mask=bias, scale=scaling)
        return attended, total
    scores = (query @ key.transpose(2, 3)).float() * (scaling or query.shape[-1] ** -0.5)
    if bias is not None:
        scores += bias
    total = scores.logsumexp(dim=3)
    weights = (scores - total.unsqueeze(3)).exp().nan_to_num_(0.0)  # of a padded token: all masked
    return weights.to(query.dtype) @ value, total


AttentionInterface.register(NAME, attend)
AttentionMaskInterface.register(NAME, sdpa_mask)


@torch.inference_mode()
def use_shared_prefixes(module: Any) -> bool:
    """Let a model attend to shared prefixes, if that gives what its own attention gives.

    Args:
        module: A causal language model of transformers, not yet wrapped by peft.

    Returns:
        Whether it does; if not, the model is as it was.
    """
    if module.config._attn_implementation != "sdpa":
        return False
    ids = torch.arange(12, device=module.device) % module.config.get_text_config().vocab_size
    whole = module(input_ids=ids.unsqueeze(0), use_cache=False).logits[:, 8:]
    module.set_attn_implementation(NAME)
    if _agrees(module, ids.unsqueeze(0), whole):
        return True
    module.set_attn_implementation("sdpa")
    return False


def _agrees(module: Any, ids: Tensor, whole: Tensor) -> bool:
    """Whether the last tokens' logits are the same, two rows behind a prefix of eight tokens."""
    try:
        cache = run_module(module, None, input_ids=ids[:, :8], use_cache=True)[1]
        prefix = SharedPrefix.of(cache)
        rows = ids[:, 8:].repeat(2, 1)
        logits, _ = run_module(
            module,
            None,
            input_ids=rows,
            attention_mask=torch.ones_like(rows),
            position_ids=torch.arange(8, 12, device=ids.device).repeat(2, 1),
            use_cache=True,
            shared_prefix=RowPrefixes([(prefix, 2)]),
        )
    except (NotImplementedError, TypeError, AttributeError, RuntimeError):
        return False
    error = (logits - whole).abs().max() / whole.abs().max()
    return bool(error < TOLERANCE.get(whole.dtype, 0.0))
