"""One blind comparison: what the judge reads, and what its reply says."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

from promptbake import Message, Prompt, Query

Verdict = Literal["A", "B", "tie"]
WIN, TIE, LOSS = 1.0, 0.5, 0.0
WORD = re.compile(r"(?<![A-Za-z])(A|B|tie|TIE|Tie)(?![A-Za-z])")
SCORES: Mapping[tuple[Verdict, Verdict], float] = {("A", "B"): WIN, ("B", "A"): LOSS}


@dataclass(frozen=True)
class Comparison:
    """Two answers to one question, in one order.

    Attributes:
        question: The test question.
        first: The answer that is shown as A.
        second: The answer that is shown as B.
        baked_first: Whether the baked model's answer is A; the judge is not told.
    """

    question: Query
    first: str
    second: str
    baked_first: bool

    @property
    def id(self) -> str:
        """The question's id with the order."""
        return f"{self.question.id} {'ab' if self.baked_first else 'ba'}"

    def query(self, prompt: Prompt) -> Query:
        """What the judge is sent, as one user's turn."""
        turns = "\n\n".join(f"{each.role}: {each.content}" for each in self.question.messages)
        parts = {
            "instructions": prompt.text,
            "message": turns,
            "answer A": self.first,
            "answer B": self.second,
        }
        text = "\n\n".join(f"<<< {name} >>>\n{part}" for name, part in parts.items())
        return Query(self.id, (Message("user", f"{text}\n\n<<< end >>>\nA, B or tie?"),))


def both_orders(question: Query, baked: str, prompted: str) -> tuple[Comparison, Comparison]:
    """The pair with the baked answer first, and with it second."""
    return (
        Comparison(question, baked, prompted, baked_first=True),
        Comparison(question, prompted, baked, baked_first=False),
    )


def read_verdict(reply: str) -> Verdict | None:
    """The last A, B or tie of a reply; None where it has none."""
    words = WORD.findall(reply)
    if not words:
        return None
    last = words[-1]
    return "tie" if last.casefold() == "tie" else "A" if last == "A" else "B"


def score(baked_first: Verdict, baked_second: Verdict) -> float:
    """1 where the baked answer wins in both orders, 0 where it loses in both, else a tie: 0.5.

    Args:
        baked_first: The verdict where A is the baked answer.
        baked_second: The verdict where B is.
    """
    return SCORES.get((baked_first, baked_second), TIE)
