"""An evaluator that samples and scores the arms, under a budget; and KL by token."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from small_bakes import PIRATE, Baked

import promptbake
from promptbake import BudgetError

WITH = {"verify__evaluators": ["perplexity"], "options__evaluators__perplexity__dollars": 0.25}


@pytest.mark.parametrize("profile", ["mock", "tinker-local"])
def test_an_evaluator_samples_and_scores_the_arms(baked: Baked, profile: str) -> None:
    given = baked(profile, **WITH, budget__max_dollars=1.0)
    plan = promptbake.plan(PIRATE, **given)
    (row,) = [row for row in plan.rows if row.work == "perplexity"]
    assert (row.stage, row.estimate.usage.dollars) == ("verify", 0.25)
    assert row.estimate.usage.output_tokens >= 12  # two arms, six tokens
    result = promptbake.verify(PIRATE, **given)
    perplexity = result.evaluators["perplexity"]
    assert perplexity.better == "lower"
    assert set(perplexity.scores) == {"base", "baked"}
    assert {"text", "sampled"} < set(perplexity.scores["base"]) == set(perplexity.scores["baked"])
    means = {arm: sum(s.values()) / len(s) for arm, s in perplexity.scores.items()}
    assert perplexity.means == pytest.approx(means)
    held_out = perplexity.scores["base"].keys() - {"text", "sampled"}
    before, after = (
        sum(perplexity.scores[arm][item] for item in held_out) for arm in ("base", "baked")
    )
    assert after < before  # the bake makes what the prompted model says more likely
    assert perplexity.baked_minus_base is not None
    assert perplexity.baked_minus_base.items == len(perplexity.scores["base"])
    worst = result.evaluators["worst token"]
    assert set(worst.scores) == {"base", "baked", "reprompted"}
    assert all(value >= 0 for value in worst.scores["baked"].values())
    # The worst token of a conversation lies above its mean.
    assert sum(worst.scores["base"].values()) / len(worst.scores["base"]) > result.kl.base
    spent = [json.loads(line) for line in Path("runs/pirate/costs.jsonl").read_text().splitlines()]
    assert sum(line["what"] == "verify: perplexity" for line in spent) == 2
    assert Path("runs/pirate/evaluators/perplexity/seed.txt").read_text() == "0"


def test_the_budget_stops_an_evaluator(baked: Baked) -> None:
    given = baked("mock", **WITH, budget__max_dollars=0.1)
    with pytest.raises(BudgetError, match="the next perplexity"):
        promptbake.verify(PIRATE, **given)
