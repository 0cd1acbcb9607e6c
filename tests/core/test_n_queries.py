"""`data.n_queries`: how many of the built-in queries are used. A file's are all used."""

from __future__ import annotations

from pathlib import Path

import pytest
from metered import QUERIES, opened, write_prompt

from promptbake.dataset.queries import BUILTIN, load_queries
from promptbake.runs.generation import PreparedData, data_inputs, prepare
from promptbake.runs.layers import resolve


def prepared(folder: Path, *settings: str) -> PreparedData:
    return prepare(opened(write_prompt(folder), *settings))


@pytest.mark.parametrize("source", ["builtin", "generate"])
def test_so_many_built_in_queries_are_used_or_stand_for_those_to_write(
    tmp_path: Path, source: str
) -> None:
    used = prepared(tmp_path, f"data.queries={source}", "data.n_queries=20").queries
    assert used == load_queries(BUILTIN)[:20]


def test_a_file_is_used_whole_and_its_data_does_not_depend_on_the_number(tmp_path: Path) -> None:
    inputs = []
    for number in (2, 1000):
        session = opened(write_prompt(tmp_path), f"data.n_queries={number}")
        used = prepare(session)
        assert [query.messages[0].content for query in used.queries] == list(QUERIES)
        inputs.append(data_inputs(session, used))
    assert inputs[0] == inputs[1]


@pytest.mark.parametrize(
    ("profile", "used"), [("mock", 50), ("local", 120), ("tinker-recipe", 50), ("tinker", 150)]
)
def test_profiles_choose_how_many_of_the_built_in_ones(profile: str, used: int) -> None:
    data = resolve(profile).config.data
    assert len(load_queries(BUILTIN)[: data.n_queries]) == used
    assert data.held_out <= used / 3
