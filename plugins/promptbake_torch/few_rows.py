"""Matrix multiplies of a few rows, as decoding does them, laid out as a CPU does them fastest."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.overrides import TorchFunctionMode

MOST_ROWS = 128  # from 256 on, the plain product is as fast


class FewRows(TorchFunctionMode):
    """In effect, a linear layer on few rows of a CPU is `(weight @ rows.T).T`.

    MKL computes that up to 1.5 times as fast at 64 rows and 3 times at 8, on two Zen 3 cores.
    """

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        """Compute a linear layer in the other order; everything else as it is."""
        if func is torch.nn.functional.linear and not kwargs:
            product = _product(*args)
            if product is not None:
                return product
        return func(*args, **(kwargs or {}))


def _product(rows: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor | None:
    flat = rows.reshape(-1, rows.shape[-1])
    if flat.device.type != "cpu" or len(flat) > MOST_ROWS:
        return None
    product = (weight @ flat.T).T.contiguous().view(*rows.shape[:-1], len(weight))
    return product if bias is None else product + bias
