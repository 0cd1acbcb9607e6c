"""The conformance suite for data providers: what they quote, hold and settle."""

from __future__ import annotations

import math
from typing import get_args, get_type_hints

import pytest

from promptbake.costs import CostEstimate, Usage
from promptbake.errors import BakeError, BudgetError
from promptbake.interfaces import DataProvider
from promptbake.testing.providers.generate_call import Trial, TrialSuite
from promptbake.testing.recording import RecordingBudget
from promptbake.types import Work

KINDS = get_args(get_type_hints(Work)["kind"])
CENT = 1e-9  # dollars: rounding


class QuoteSuite(TrialSuite):
    """The tests about money."""

    def test_a_quote_is_in_numbers_and_sends_nothing(self, provider: DataProvider) -> None:
        trial = self._trial(provider)
        quote = provider.estimate_cost(trial.job)
        assert isinstance(quote, CostEstimate), (
            f"quote gives {quote!r}: expected promptbake's CostEstimate"
        )
        numbers = {**vars(quote.usage), "seconds": quote.seconds or 0.0}
        wrong = {name: n for name, n in numbers.items() if not (math.isfinite(n) and n >= 0)}
        assert not wrong, f"the quote has {wrong}: expected numbers of 0 and above"
        assert not trial.model.sampled, (
            "quote samples from the base model: ask model.estimate_cost(work)"
        )
        assert not trial.budget.reservations, "quote holds money: `promptbake plan` is free"

    def test_a_quote_is_for_what_is_not_done(self, provider: DataProvider) -> None:
        whole = self._trial(provider).run()
        first, second, last = (
            provider.estimate_cost(each.job).usage
            for each in (whole, whole.after(whole.found[::2]), whole.after(whole.found))
        )
        assert last == Usage(), f"where all is done, the quote is {last}: count what is not done"
        more = {name for name, most in vars(first).items() if getattr(second, name) > most}
        assert not more, f"with half of it done, the quote has more {', '.join(more)} than before"
        assert second != first or first == Usage(), (
            f"the quote is {first}, and the same where half of it is done: count what is not done"
        )

    def test_a_quote_covers_what_it_comes_to(self, provider: DataProvider) -> None:
        if not self.paid and not self.uses_base_model:
            pytest.skip("it neither pays nor asks the base model")
        trial = self._trial(provider).run()
        quote = provider.estimate_cost(trial.job)
        asked = sum(row.max_tokens for row in trial.model.sampled)
        assert quote.usage.output_tokens >= asked, (
            f"the quote is {quote.usage.output_tokens} sampled tokens; asked for up to "
            f"{asked}: responses are quoted at their longest, job.max_tokens"
        )
        quoted, came = cost(quote, quote.usage), cost(quote, settled(trial))
        assert quoted >= came - CENT, (
            f"the quote is {amount(quote, quoted)}, and {amount(quote, came)} was settled: quote "
            "responses at their longest, and all that is read"
        )

    def test_it_holds_money_as_the_flag_says(self, provider: DataProvider) -> None:
        holds = self._trial(provider).run().budget.reservations
        assert bool(holds) == self.paid, (
            f"`paid` is {self.paid}, and job.budget.hold was called {len(holds)} times: what is "
            "paid for outside of job.open_model() is held first, and nothing else"
        )
        for each in holds:
            assert each.what in KINDS, f"{each.what!r} was held: expected one of {', '.join(KINDS)}"

    def test_it_holds_money_before_it_asks(self, broken: DataProvider | None) -> None:
        self.capable_of("paid")
        if broken is None:
            pytest.skip("there is no fixture `broken`")
        trial = self._trial(broken).attempt()
        assert trial.at_once or trial.budget.reservations, (
            "the service was asked, and failed, before any money was held for it"
        )

    def test_it_settles_what_it_holds(self, provider: DataProvider) -> None:
        self.capable_of("paid")
        trial = self._trial(provider).run()
        check_settled(trial)
        quote = provider.estimate_cost(trial.job)
        for held in trial.budget.reservations:
            most, came = cost(quote, held.usage), cost(quote, held.committed or Usage())
            assert came <= most + CENT, (
                f"{amount(quote, most)} was held, and then {amount(quote, came)} settled: hold the "
                "most that it may come to, with a response of job.max_tokens, or the cap is passed"
            )
        assert settled(trial) != Usage(), (
            "every hold was settled as nothing: settle what is billed, or the cap is never reached"
        )

    def test_it_stops_where_the_budget_refuses(self, provider: DataProvider) -> None:
        self.capable_of("paid")
        for holds in (0, 2):
            budget = RecordingBudget(capped=True, refuses_after=holds)
            trial = self._trial(provider, budget=budget)
            if not provider.estimate_cost(trial.job).priced:
                pytest.skip("it knows no prices, and is refused under a cap")
            trial.attempt()
            if holds and not budget.refused:  # it holds for many requests at a time
                continue
            assert isinstance(trial.error, BudgetError), (
                f"the budget refuses after {holds} holds, and generate raises {trial.error!r}: let "
                "BudgetError through, so that the run stops, and goes on when the cap is raised"
            )
            check_settled(trial)
            assert holds or not trial.found, "answers came that no money was held for"
            assert trial.found or settled(trial) == Usage(), (
                "what was paid for before the budget refused was not yielded, and would be paid "
                "for again: yield each answer as it is ready"
            )

    def test_under_a_cap_it_needs_its_prices(self, provider: DataProvider) -> None:
        self.capable_of("paid")
        trial = self._trial(provider, budget=RecordingBudget(capped=True))
        if provider.estimate_cost(trial.job).priced:
            pytest.skip("it knows its prices")
        trial.attempt()
        assert isinstance(trial.error, BakeError), (
            "there is a cap (job.budget.capped) and no price, and it was not refused: raise "
            "BakeError, and say where prices are given"
        )
        assert not trial.budget.reservations, "it began to ask where there is a cap and no price"


def check_settled(trial: Trial) -> None:
    """Refuse a hold that is open when the work has ended."""
    left = sum(held.committed is None for held in trial.budget.reservations)
    assert not left, (
        f"{left} of {len(trial.budget.reservations)} holds were never settled, so they count as spent: "
        "settle what it came to, Usage() where that is nothing"
    )


def settled(trial: Trial) -> Usage:
    """All that was."""
    return sum((held.committed or Usage() for held in trial.budget.reservations), Usage())


def cost(quote: CostEstimate, usage: Usage) -> float:
    """In dollars where they are known, else in sampled tokens."""
    return usage.dollars if quote.priced else usage.output_tokens


def amount(quote: CostEstimate, value: float) -> str:
    """With its unit."""
    return f"${value:.6f}" if quote.priced else f"{value:.0f} sampled tokens"
