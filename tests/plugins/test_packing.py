"""Rows of tokens as one row: what stands where, and what sees what."""

from __future__ import annotations

import torch

from promptbake_torch.packing import pack


def test_rows_are_packed_behind_what_they_begin_with() -> None:
    packed = pack([(1, 2, 3, 4, 5), (1, 2, 6, 7)], [2, 1], torch.device("cpu"))
    assert packed.input_ids.tolist() == [[1, 2, 3, 4, 6]]
    assert packed.position_ids.tolist() == [[0, 1, 2, 3, 2]]
    assert packed.predicting.tolist() == [2, 3, 4]  # of 4 and 5, and of 7
    assert packed.attention_mask[0, 0].int().tolist() == [
        [1, 0, 0, 0, 0],
        [1, 1, 0, 0, 0],
        [1, 1, 1, 0, 0],
        [1, 1, 1, 1, 0],
        [1, 1, 0, 0, 1],
    ]
    behind = pack([(1, 2, 3, 4, 5), (1, 2, 6, 7)], [2, 1], torch.device("cpu"), cached=1)
    assert behind.input_ids.tolist() == [[2, 3, 4, 6]]
    assert behind.position_ids.tolist() == [[1, 2, 3, 2]]
    assert behind.predicting.tolist() == [1, 2, 3]


def test_a_response_may_begin_where_rows_part() -> None:
    """Its first token is predicted by one that the rows share."""
    packed = pack([(1, 2, 3), (1, 2, 4)], [1, 1], torch.device("cpu"))
    assert packed.input_ids.tolist() == [[1, 2, 2]]
    assert packed.predicting.tolist() == [1, 2]
