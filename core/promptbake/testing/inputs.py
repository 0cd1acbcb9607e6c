"""What plugins keep to that are given one input, such as losses, evaluators and trackers."""

from __future__ import annotations

import copy
from collections.abc import Mapping
from dataclasses import is_dataclass
from pathlib import Path
from typing import Any, ClassVar

import pytest

from promptbake.testing.etiquette import EtiquetteTests
from promptbake.testing.keys import contents


class InputTests(EtiquetteTests):
    """The plugin changes neither its input nor global state. A suite says how it is applied."""

    fixture: ClassVar[str]  # the name of the suite's fixture

    def _input(self) -> Any:
        """What the plugin is given, equal each time."""
        raise NotImplementedError

    def _apply(self, plugin: Any, given: Any, folder: Path) -> Any:
        """Do with the fixture's value what a run does in `folder`; return what it gave."""
        raise NotImplementedError

    def _use(self, request: pytest.FixtureRequest) -> Mapping[str, object]:
        folder: Path = request.getfixturevalue("tmp_path")
        request.getfixturevalue("monkeypatch").chdir(folder)
        result = self._apply(request.getfixturevalue(self.fixture), self._input(), folder)
        return {"the result": result, **contents(folder)}

    def test_it_leaves_its_input_unchanged(
        self, request: pytest.FixtureRequest, tmp_path: Path
    ) -> None:
        given = self._input()
        before = copy.deepcopy(given)
        self._apply(request.getfixturevalue(self.fixture), given, tmp_path)
        assert unchanged(before, given), (
            f"it was given {before!r} and left {given!r}, which others read later: look for pop, "
            "update, setdefault and operations in place, such as sub_ or +="
        )

    def test_it_leaves_torchs_random_state_unchanged(
        self, request: pytest.FixtureRequest, tmp_path: Path
    ) -> None:
        import torch

        plugin = request.getfixturevalue(self.fixture)
        before = torch.get_rng_state()
        self._apply(plugin, self._input(), tmp_path)
        assert before.equal(torch.get_rng_state()), (
            "it seeded or used torch's global random numbers: use a torch.Generator of your own, "
            "seeded by what you are given"
        )


def unchanged(before: Any, after: Any) -> bool:
    """Whether data are equal, tensors included; objects of other kinds are not looked into."""
    if is_dataclass(before):
        return unchanged(vars(before), vars(after))
    if isinstance(before, Mapping):
        return before.keys() == after.keys() and all(
            unchanged(value, after[name]) for name, value in before.items()
        )
    if isinstance(before, list | tuple):
        return len(before) == len(after) and all(map(unchanged, before, after))
    if hasattr(before, "equal"):  # a tensor
        return bool(before.equal(after))
    return not isinstance(before, str | bytes | int | float | None) or before == after
