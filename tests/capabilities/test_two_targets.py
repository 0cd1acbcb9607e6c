"""Two targets in one bake: one is learned, the other keeps the model as it is."""

from __future__ import annotations

import json
from pathlib import Path

from small_bakes import PIRATE, job

import promptbake

TARGETS = """
[[targets]]
name = "pirate"
teacher = "pirate.md"

[[targets]]
name = "monk"
teacher = "monk.md"
student = "monk.md"
weight = 2.0
"""


def test_a_target_with_equal_prompts_regularises() -> None:
    Path("pirate.md").write_text(PIRATE.text)
    Path("monk.md").write_text("You are a monk. Be silent, and never say more than a word.")
    drift = {}
    for name, sidecar in (("alone", ""), ("both", TARGETS)):
        Path("pirate.toml").write_text(sidecar)
        given = job("mock", f"runs/{name}")
        dataset = promptbake.data("pirate.md", **given)
        promptbake.bake("pirate.md", **given)
        result = promptbake.verify("pirate.md", **given)
        assert result.gap_closed > 0.3
        drift[name] = result
    assert {each.target for each in dataset.training} == {"pirate", "monk"}
    assert len(dataset.held_out) == 12
    monk = drift["both"].targets["monk"]
    assert (monk.base, monk.gap_closed) == (0.0, None)  # nothing was to change
    assert monk.baked < 0.2 * drift["both"].targets["pirate"].base
    assert drift["alone"].targets == {}
    lines = [json.loads(line) for line in Path("runs/both/data.jsonl").read_text().splitlines()]
    assert {line["target"] for line in lines} == {"pirate", "monk"}
