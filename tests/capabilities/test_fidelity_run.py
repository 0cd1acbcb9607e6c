"""The fidelity evaluators in a run: planned, measured on a real bake, stored, and read again."""

from __future__ import annotations

from pathlib import Path

import pytest
from small_bakes import PIRATE, Baked

import promptbake

NAMES = ["shift", "drift", "retention", "extraction"]
FEW: dict[str, object] = {"verify__evaluators": NAMES}
FEW |= {f"options__evaluators__{name}__items": 1 for name in NAMES}
FEW |= {f"options__evaluators__{name}__max_tokens": 8 for name in NAMES if name != "retention"}
FEW["options__evaluators__shift__sets"] = ["code", "turn_4"]


@pytest.mark.parametrize("profile", ["mock", "tinker-local"])
def test_a_bake_is_measured_beside_its_queries(baked: Baked, profile: str) -> None:
    given = baked(profile, **FEW)
    planned = {row.work: row.estimate for row in promptbake.plan(PIRATE, **given).rows}
    assert set(NAMES) <= planned.keys()
    result = promptbake.verify(PIRATE, **given)
    means = {name: each.means for name, each in result.evaluators.items()}
    likenesses = {f"shift.{name}" for name in ("code", "turn_4")}
    likenesses |= {f"drift.round_{number}" for number in (1, 4, 8)}
    assert likenesses < means.keys()
    for name in likenesses:
        assert means[name].keys() == {"base", "baked"}
        assert min(means[name].values()) > 0
        assert means[name]["baked"] != means[name]["base"]
    assert means["retention.kl_to_base"].keys() == {"prompted", "baked"}
    assert means["retention.nll"].keys() == {"base", "prompted", "baked"}
    assert all(0 <= value <= 1 for value in means["extraction.overlap"].values())
    files = sorted(Path("runs/pirate/evaluators").glob("*/measurements.jsonl"))
    assert [file.parent.name for file in files] == sorted(NAMES)
    before = [file.read_bytes() for file in files]
    again = promptbake.verify(PIRATE, **given)
    assert again.evaluators == result.evaluators
    assert [file.read_bytes() for file in files] == before  # nothing was measured again
    forced = promptbake.verify(PIRATE, force=True, **given)
    assert forced.evaluators == result.evaluators
    assert all(file.read_bytes() != old for file, old in zip(files, before, strict=True))
