"""An adapter at a strength, a bake that starts from another, and a teacher that is a bake."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import safetensors.torch
import torch
from small_bakes import PIRATE, Baked, job

import promptbake
from promptbake import BakeError, Prompt

PROFILES = ["mock", "tinker-local"]
WEIGHTS = "adapter_model.safetensors"


def held_out_curve(run: str) -> list[float]:
    lines = map(json.loads, Path(f"runs/{run}/metrics.jsonl").read_text().splitlines())
    return [line["held_out_kl"] for line in lines if "held_out_kl" in line]


@pytest.mark.parametrize("profile", ["tinker-local"])  # for mock: test_golden_run
def test_an_adapter_is_exported_at_a_strength(baked: Baked, profile: str) -> None:
    given = baked(profile)
    tensors = {}
    for strength in (0.0, 0.5, 1.0):
        folder = promptbake.export(PIRATE, f"at-{strength}", strength=strength, **given)
        tensors[strength] = safetensors.torch.load((folder / WEIGHTS).read_bytes())
    for name, whole in tensors[1.0].items():
        if ".lora_B." in name:
            assert whole.abs().max() > 0
            torch.testing.assert_close(tensors[0.5][name], whole / 2)
            assert tensors[0.0][name].abs().max() == 0
        else:
            torch.testing.assert_close(tensors[0.5][name], whole)


@pytest.mark.parametrize("profile", ["tinker-local"])
def test_an_adapter_is_loaded_at_a_strength(baked: Baked, profile: str) -> None:
    given = baked(profile)

    def replies(strength: float, arm: str = "baked") -> str:
        chat = promptbake.chat(
            PIRATE, arm=arm, max_tokens=12, temperature=0.0, strength=strength, **given
        )
        return "".join(chat.say("How are you?"))

    assert replies(0.0) == replies(1.0, "base")
    with pytest.raises(BakeError, match=r"export it with --strength 0\.5"):
        replies(0.5)


@pytest.mark.parametrize("profile", PROFILES)
def test_a_bake_starts_from_an_earlier_one(profile: str) -> None:
    first = job(profile, "runs/first", train__epochs=8)
    promptbake.data(PIRATE, **first)
    earlier = promptbake.bake(PIRATE, **first)
    second = job(profile, "runs/second", seed=1, train__epochs=2)
    promptbake.data(PIRATE, **second)
    promptbake.bake(PIRATE, start=earlier, **second)
    curve = held_out_curve("second")
    bare = promptbake.verify(PIRATE, **second).kl.base
    assert curve[0] < 0.5 * bare  # it begins where the first one ended
    assert curve[-1] < 0.5 * bare


@pytest.mark.parametrize("profile", PROFILES)
def test_the_teacher_may_be_a_bake(baked: Baked, profile: str) -> None:
    """Sequential bakes: a second prompt is baked on top of the first one's bake."""
    earlier = promptbake.bake(PIRATE, **baked(profile))
    monk = Prompt("monk", "You are a monk. Be silent, and never say more than a word.")
    given = job(profile, "runs/monk")
    promptbake.data(monk, **given)
    scores = []
    for teacher in (None, earlier):
        promptbake.bake(monk, start=earlier, teacher=teacher, **given)
        scores.append({file.name for file in Path("runs/monk/teacher_logprobs").iterdir()})
    assert scores[0] < scores[1]  # another teacher has other scores


def test_a_start_of_another_rank_is_refused(baked: Baked) -> None:
    earlier = promptbake.bake(PIRATE, **baked("mock"))
    second = job("mock", "runs/second", train__rank=4)
    promptbake.data(PIRATE, **second)
    with pytest.raises(BakeError, match="another rank"):
        promptbake.bake(PIRATE, start=earlier, **second)
