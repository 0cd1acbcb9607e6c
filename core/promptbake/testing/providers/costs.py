"""The tests of DataProviderSuite about money: what is estimated, reserved and committed."""

from __future__ import annotations

import math
from typing import get_args

from promptbake.costs import CostEstimate, Usage, WorkItem
from promptbake.errors import BakeError, BudgetError
from promptbake.interfaces import DataProvider
from promptbake.testing.providers.generate_call import GenerateCall, GenerateTests
from promptbake.testing.recording import RecordingBudget
from promptbake.testing.suite import only_if

KINDS = tuple(work.kind for work in get_args(WorkItem))
ROUNDING = 1e-9  # dollars


class CostTests(GenerateTests):
    """Of estimates and the budget."""

    def test_an_estimate_is_in_numbers_and_sends_nothing(self, provider: DataProvider) -> None:
        call = self._call(provider)
        estimate = provider.estimate_cost(call.job)
        assert isinstance(estimate, CostEstimate), (
            f"estimate_cost gives {estimate!r}: expected promptbake's CostEstimate"
        )
        numbers = {**vars(estimate.usage), "seconds": estimate.seconds or 0.0}
        wrong = {name: n for name, n in numbers.items() if not (math.isfinite(n) and n >= 0)}
        assert not wrong, f"the estimate has {wrong}: expected numbers of 0 and above"
        assert not call.model.sampled, "estimate_cost samples: use model.estimate_cost(work)"
        assert not call.budget.reservations, "estimate_cost reserves money"

    def test_an_estimate_is_for_what_is_not_completed(self, generated: GenerateCall) -> None:
        some, every = generated.items[::2], generated.items
        whole, half, none = (
            generated.provider.estimate_cost(call.job).usage
            for call in (generated, generated.resumed(some), generated.resumed(every))
        )
        assert none == Usage(), f"where all is completed, the estimate is {none}"
        more = {name for name, most in vars(whole).items() if getattr(half, name) > most}
        assert not more, f"with half of it completed, the estimate has more {', '.join(more)}"
        assert half != whole or whole == Usage(), (
            f"the estimate is {whole}, and the same where half of it is completed"
        )

    @only_if("uses_base_model")
    def test_an_estimate_covers_what_is_sampled(self, generated: GenerateCall) -> None:
        estimate = generated.provider.estimate_cost(generated.job)
        most = sum(row.max_tokens for row in generated.model.sampled)
        assert estimate.usage.output_tokens >= most, (
            f"the estimate is {estimate.usage.output_tokens} output tokens, and up to {most} were "
            "asked for: count each response as job.max_tokens"
        )

    @only_if("paid")
    def test_an_estimate_covers_what_is_committed(self, generated: GenerateCall) -> None:
        estimate = generated.provider.estimate_cost(generated.job)
        estimated, spent = _cost(estimate, estimate.usage), _cost(estimate, _committed(generated))
        assert estimated >= spent - ROUNDING, (
            f"the estimate is {_amount(estimate, estimated)}, and {_amount(estimate, spent)} was "
            "committed: count each response as job.max_tokens, and all that is read"
        )

    def test_it_reserves_money_as_the_flag_says(self, generated: GenerateCall) -> None:
        reservations = generated.budget.reservations
        assert bool(reservations) == self.paid, (
            f"`paid` is {self.paid}, and job.budget.reserve was called {len(reservations)} times: "
            "reserve what is paid for outside of job.open_model(), and nothing else"
        )
        for each in reservations:
            assert each.what in KINDS, (
                f"{each.what!r} was reserved: expected one of {', '.join(KINDS)}"
            )

    @only_if("paid")
    @only_if("broken")
    def test_it_reserves_money_before_it_asks(self, broken: DataProvider) -> None:
        call = self._call(broken).attempt()
        assert call.raised_at_once or call.budget.reservations, (
            "the service was asked, and failed, before any money was reserved for it"
        )

    @only_if("paid")
    def test_it_commits_what_it_reserves(self, generated: GenerateCall) -> None:
        _check_committed(generated)
        estimate = generated.provider.estimate_cost(generated.job)
        for each in generated.budget.reservations:
            most, spent = _cost(estimate, each.usage), _cost(estimate, each.committed or Usage())
            assert spent <= most + ROUNDING, (
                f"{_amount(estimate, most)} was reserved, and {_amount(estimate, spent)} committed:"
                " reserve the most that it may cost, with a response of job.max_tokens"
            )
        assert _committed(generated) != Usage(), (
            "every reservation was committed as nothing: commit what is billed"
        )

    @only_if("paid")
    def test_it_keeps_to_the_cap(self, provider: DataProvider) -> None:
        for allowed in (0, 2):
            budget = RecordingBudget(capped=True, refuses_after=allowed)
            call = self._call(provider, budget=budget)
            priced = provider.estimate_cost(call.job).priced
            call.attempt()
            if not priced:
                assert isinstance(call.error, BakeError), (
                    "job.budget.capped, and the price is not known: raise BakeError, and say where "
                    "prices are given"
                )
                assert not budget.reservations, "it began to ask where there is a cap and no price"
            elif budget.refused or not allowed:  # else it reserves for many requests at a time
                _check_stopped(call, allowed)


def _check_stopped(call: GenerateCall, allowed: int) -> None:
    assert isinstance(call.error, BudgetError), (
        f"the budget refuses after {allowed} reservations, and generate raises {call.error!r}: let "
        "BudgetError through"
    )
    _check_committed(call)
    assert allowed or not call.items, "answers came for which no money was reserved"
    assert call.items or _committed(call) == Usage(), (
        "what was paid for before the budget refused was not yielded: yield each answer as it is "
        "ready"
    )


def _check_committed(call: GenerateCall) -> None:
    """Refuse a reservation that is open when the work has ended."""
    reservations = call.budget.reservations
    left = sum(each.committed is None for each in reservations)
    assert not left, (
        f"{left} of {len(reservations)} reservations were never committed: commit what it cost, "
        "Usage() where that is nothing"
    )


def _committed(call: GenerateCall) -> Usage:
    return sum((each.committed or Usage() for each in call.budget.reservations), Usage())


def _cost(estimate: CostEstimate, usage: Usage) -> float:
    """In dollars where they are known, else in output tokens."""
    return usage.dollars if estimate.priced else usage.output_tokens


def _amount(estimate: CostEstimate, cost: float) -> str:
    return f"${cost:.6f}" if estimate.priced else f"{cost:.0f} output tokens"
