"""Installs the distribution of spikes, and makes runs of small bakes."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest

from promptbake import Prompt

HERE = Path(__file__).parent
PIRATE = Prompt("pirate", "Answer like a pirate who has lost his map, his ship and his parrot.")
SMALL = {"train.epochs": 2, "data.max_tokens": 12, "verify.max_tokens": 6, "data.held_out": 6}


@pytest.fixture(autouse=True)
def spikes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """`promptbake_spikes` is installed, and the test works in a folder of its own."""
    record = tmp_path / "site" / "promptbake_spikes-1.0.dist-info"
    record.mkdir(parents=True)
    (record / "METADATA").write_text(
        "Metadata-Version: 2.1\nName: promptbake-spikes\nVersion: 1.0\n"
    )
    (record / "entry_points.txt").write_text("[promptbake]\nspikes = promptbake_spikes\n")
    monkeypatch.syspath_prepend(tmp_path / "site")
    monkeypatch.syspath_prepend(HERE)
    monkeypatch.chdir(tmp_path)


def job(profile: str, run: str = "runs/pirate", **settings: Any) -> dict[str, Any]:
    """The keyword arguments of a small bake; a setting's dots are written as `__`."""
    named = {key.replace("__", "."): value for key, value in settings.items()}
    values: Mapping[str, Any] = SMALL | named
    return {"profile": profile, "run": run, "quiet": True, "settings": values}
