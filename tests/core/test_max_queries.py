"""`data.max_queries`: how many of the built-in queries, or of a file's, are used."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from pathlib import Path

import pytest
from metered import QUERIES, opened, write_prompt

from promptbake.dataset.queries import BUILTIN, load_queries
from promptbake.progress import SilentReporter
from promptbake.runs.generation import PreparedData, data_inputs, prepare
from promptbake.runs.layers import resolve
from promptbake.runs.session import Session


@dataclass
class Notes(SilentReporter):
    """Keeps what is said."""

    lines: list[str] = field(default_factory=list)

    def say(self, line: str) -> None:
        self.lines.append(line)


def session(folder: Path, *settings: str) -> tuple[Session, Notes]:
    notes = Notes()
    return replace(opened(write_prompt(folder), *settings), reporter=notes), notes


def texts(prepared: PreparedData) -> list[str]:
    return [query.messages[0].content for query in prepared.queries]


def test_the_first_queries_of_a_file_are_used_and_the_rest_is_counted(tmp_path: Path) -> None:
    limited, notes = session(tmp_path, "data.max_queries=4")
    prepared = prepare(limited)
    assert texts(prepared) == list(QUERIES[:4])
    assert (len(prepared.training[""]), len(prepared.held_out)) == (2, 2)
    assert notes.lines == [
        f"data: the first 4 of 6 queries of {tmp_path}/queries.txt are used (data.max_queries = 4)"
    ]


def test_a_shorter_file_is_used_whole_and_the_limit_does_not_change_its_data(
    tmp_path: Path,
) -> None:
    inputs = []
    for limit in (6, 1000):
        limited, notes = session(tmp_path, f"data.max_queries={limit}")
        prepared = prepare(limited)
        assert texts(prepared) == list(QUERIES)
        assert notes.lines == []
        inputs.append(data_inputs(limited, prepared))
    assert inputs[0] == inputs[1]
    fewer, _ = session(tmp_path, "data.max_queries=5")
    assert data_inputs(fewer, prepare(fewer)) != inputs[0]


@pytest.mark.parametrize(
    ("profile", "used"), [("mock", 50), ("local", 50), ("tinker-recipe", 50), ("tinker", 150)]
)
def test_profiles_choose_how_many_of_the_built_in_ones(profile: str, used: int) -> None:
    data = resolve(profile).config.data
    assert len(load_queries(BUILTIN)[: data.max_queries]) == used
    assert data.held_out <= used / 3


def test_built_in_queries_are_limited_in_silence(tmp_path: Path) -> None:
    limited, notes = session(tmp_path, "data.queries=builtin", "data.max_queries=20")
    assert prepare(limited).queries == load_queries(BUILTIN)[:20]
    assert notes.lines == []


def test_as_many_stand_for_the_queries_that_are_to_be_written(tmp_path: Path) -> None:
    settings = ("data.queries=generate", "data.n_queries=30", "data.max_queries=20")
    assert len(prepare(session(tmp_path, *settings)[0]).queries) == 30
