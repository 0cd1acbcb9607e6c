"""A good backend for faulty ones to be made of: the one that `promptbake new-plugin` writes."""

from __future__ import annotations

import itertools
import os
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, replace
from typing import Any

import torch
from faulty_suites import Faults, edited, suites_for, template

from promptbake.costs import NoBudget
from promptbake.errors import BudgetError
from promptbake.testing import BackendSuite, Suite

SOURCE = template("backends")

SCORES = "self.scores(span).detach()"
LOADS = "weights = _read(checkpoint)\n        return"
LOADED = "return _ours(base).with_lora(lambda: strength * _delta(weights))"


@dataclass(frozen=True)
class Late:
    """A result that is worked out when it is waited for."""

    result: Callable[[], Any]


class ToySuite(BackendSuite):
    takes_any_name = True
    lr = 0.1


KNOWN = (torch, os, replace, suppress, Late, NoBudget, BudgetError)  # to the edits


def backend(*edits: str, text: str = "") -> Any:
    """The toy backend with some texts of its source, and of what follows it, replaced."""
    known = {each.__name__: each for each in KNOWN}
    return edited(SOURCE + text, edits, NEXT=itertools.count().__next__, **known)["Toy"]()


def backend_suites(faults: Faults, **flags: Any) -> dict[str, type[Suite]]:
    return suites_for(ToySuite, "backend", backend, faults, **flags)
