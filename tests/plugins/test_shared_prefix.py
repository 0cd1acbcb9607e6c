"""Prefixes that are stored and read once, for all rows that stand behind them."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch_models import SYSTEM, prompts

from promptbake.testing import tiny_model, tiny_tokenizer
from promptbake_torch import TorchModel, make_engine


@pytest.fixture
def model() -> TorchModel:
    return TorchModel(make_engine(tiny_model(), tiny_tokenizer(), "tiny", "d"), None, 2)


@torch.inference_mode()
def test_a_prefix_is_stored_once_for_all_rows(model: TorchModel) -> None:
    assert model.engine.shares_prefixes
    rows = model.engine.pad(prompts(model))
    cache, arguments = model.engine.begin(None, rows)
    assert cache is None
    assert arguments["attention_mask"].shape == rows.input_ids.shape
    ((prefix, n_rows),) = arguments["shared_prefix"].groups
    assert n_rows == len(rows.input_ids)
    for keys, values in prefix.layers:
        assert keys.shape == values.shape == (1, keys.shape[1], len(rows.prefix), keys.shape[3])


def test_rows_behind_several_prefixes_are_sampled_as_they_are_alone(model: TorchModel) -> None:
    """Groups of rows behind a prompt, behind another, and behind none."""
    systems = (None, SYSTEM, "Answer in two words.")
    wanted = [prompt for system in systems for prompt in prompts(model, system)] * 2
    n = len(wanted)
    options: dict[str, Any] = {"max_tokens": 24, "temperatures": [1.0] * n, "seeds": range(n)}
    alone = [each for _, each in TorchModel(model.engine, None, 1).sample(wanted, **options)]
    half = TorchModel(model.engine, None, n // 2).sample(wanted, **options)
    assert alone == [each for _, each in half]
    rows = model.engine.pad(wanted[: n // 2])
    assert len(rows.groups) == 3
