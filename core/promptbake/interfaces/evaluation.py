"""What an evaluator is given, and what it returns."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Protocol

from promptbake.costs import Budget, CostEstimate, NoBudget
from promptbake.interfaces.data import no_note
from promptbake.interfaces.model import Model, no_progress
from promptbake.types import (
    Arm,
    ArmAnswers,
    Conversation,
    KLByConversation,
    Measurement,
    Prompt,
)


@dataclass(frozen=True)
class EvalArm:
    """One arm: a model and its system prompt.

    Attributes:
        system: The system prompt; None for none.
        open_model: Opens the model at first use, and gives the same model each time.
        weights: Identifies the model's weights and what computes with them, for the keys of what
            is stored; None where that is not known, and then nothing may be stored.
    """

    system: str | None
    open_model: Callable[[], Model]
    weights: str | None = None


@dataclass(frozen=True)
class EvalContext:
    """What an evaluator may look at and use.

    Attributes:
        prompt: The prompt that was baked.
        answers: The test questions, answered by the arms; empty while costs are estimated.
        arms: The arms that can be sampled and scored.
        held_out: Conversations that were never trained on.
        held_out_kl: KL(prompted || arm) of each of them, by token; the prompted arm has none.
        questions: How many test questions there are.
        seed: Everything random follows from it.
        budget: What is paid for elsewhere is reserved here first; models do so themselves.
        cache: A folder of the evaluator's own, kept between runs; None outside a run.
        anew: Read nothing from `cache`: everything is to be measured again.
        progress: Called with the share of the work done since the last call, from 0 to 1.
        say: Shows a line to the user.
    """

    prompt: Prompt
    answers: tuple[ArmAnswers, ...]
    arms: Mapping[Arm, EvalArm] = field(default_factory=dict)
    held_out: tuple[Conversation, ...] = ()
    held_out_kl: Mapping[Arm, KLByConversation] = field(default_factory=dict)
    questions: int = 0
    seed: int = 0
    budget: Budget = field(default_factory=NoBudget)
    cache: Path | None = None
    anew: bool = False
    progress: Callable[[float], None] = no_progress
    say: Callable[[str], None] = no_note


class Evaluator(Protocol):
    """Measures the arms."""

    def estimate_cost(self, context: EvalContext) -> CostEstimate:
        """What `evaluate` would cost; `NO_COST` where it sends nothing."""
        ...

    def evaluate(self, context: EvalContext) -> Sequence[Measurement]:
        """Named measurements, each with a finite score of every item for the arms that it covers.

        Raises:
            BudgetError: The budget has no room for it.
        """
        ...
