"""The provider `openrouter` against the double: what it asks, and what the list of models says."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

import pytest

from promptbake.budget import NoBudget
from promptbake.errors import BakeError
from promptbake.interfaces import DataProvider, Generation, Model
from promptbake.testing import DataProviderSuite
from promptbake.types import Conversation, Message, Prompt, Query, Request
from promptbake_loopback.openai import ChatEndpoint, Prices
from promptbake_openrouter import openrouter_provider
from promptbake_openrouter.models import Listing

KEY = "sk-or-test-91c3"
MODEL = "maker/large"


@pytest.fixture(autouse=True)
def key(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OPENROUTER_API_KEY", KEY)


class TestOpenRouterProvider(DataProviderSuite):
    paid = True
    several_turns = True
    keys = ("OPENROUTER_API_KEY",)

    @pytest.fixture
    def provider(self) -> Iterator[DataProvider]:
        with endpoint() as served:
            yield self.made(served)

    @pytest.fixture
    def broken(self) -> Iterator[DataProvider]:
        with endpoint(faults=1.0, kinds=("401",)) as served:
            yield self.made(served)

    def made(self, served: ChatEndpoint) -> DataProvider:
        return openrouter_provider(model=MODEL, base_url=served.url, allow_truncated=True)


def no_model() -> Model:
    raise AssertionError("no model is needed")


def job(max_tokens: int = 32) -> Generation:
    query = Query("a", (Message("user", "Why?"),))
    plan = (Request("a@1.0", query, 1.0),)
    prompt = Prompt("p", "Say hm.")
    return Generation(prompt, plan, frozenset(), max_tokens, 0, no_model, NoBudget())


def endpoint(**options: Any) -> ChatEndpoint:
    return ChatEndpoint(key=KEY, models=("maker/small", MODEL), **options)


def test_the_cost_is_what_the_answer_says() -> None:
    with endpoint(prices=Prices(prompt=0.25, completion=2.0)) as served:
        provider = openrouter_provider(model=MODEL, base_url=served.url)
        (found,) = provider.generate(job())
        dollars = served.meter.dollars
    assert isinstance(found, Conversation)
    assert (found.meta["provider"], found.meta["model"]) == ("Loopback", MODEL)
    assert found.meta["dollars"] == dollars > 0


def test_routing_and_body_go_along() -> None:
    seen: list[Mapping[str, Any]] = []

    def note(request: Mapping[str, Any]) -> str:
        seen.append(request)
        return "Hm."

    routing = {"order": ["one", "two"], "allow_fallbacks": False}
    with endpoint(answer=note) as served:
        provider = openrouter_provider(
            model=MODEL, base_url=served.url, routing=routing, body={"top_k": 5}
        )
        list(provider.generate(job()))
    assert seen[0]["provider"] == routing
    assert seen[0]["usage"] == {"include": True}
    assert seen[0]["top_k"] == 5


def test_prices_are_those_of_the_list_and_the_quote_is_made_of_them() -> None:
    with endpoint(prices=Prices(prompt=1e-6, completion=2e-6)) as served:
        quote = openrouter_provider(model=MODEL, base_url=served.url).quote(job())
        prices = Listing(served.url, MODEL).prices()
        assert served.meter.requests == 0
    assert prices is not None
    assert (prices.prompt, prices.completion) == pytest.approx((1.0, 2.0))
    assert quote.priced
    assert quote.usage.dollars == pytest.approx((quote.usage.prefill + 2 * 32) / 1e6)
    assert MODEL in quote.source


def test_a_list_that_cannot_be_had_gives_no_prices_and_ends_the_run() -> None:
    with endpoint() as served:
        url = served.url
    provider = openrouter_provider(model=MODEL, base_url=url)
    assert not provider.quote(job()).priced
    with pytest.raises(BakeError, match="models: cannot be had: ") as caught:
        provider.generate(job())
    assert KEY not in str(caught.value)


def test_an_unknown_model_is_refused_with_the_nearest_name() -> None:
    with endpoint() as served:
        with pytest.raises(BakeError) as caught:
            openrouter_provider(model="maker/larg", base_url=served.url).generate(job())
        assert served.meter.requests == 0
    said = str(caught.value)
    assert said.startswith("options.data_providers.openrouter.model: ")
    assert "has no 'maker/larg'" in said
    assert MODEL in said.replace("'maker/larg'", "")


def test_a_context_that_is_too_short_is_refused_by_the_query() -> None:
    with endpoint(context_length=100) as served:
        provider = openrouter_provider(model=MODEL, base_url=served.url)
        list(provider.generate(job(max_tokens=50)))
        with pytest.raises(BakeError, match=r"query a: may take .* holds 100; .*data\.max_tokens"):
            provider.generate(job(max_tokens=99))


def test_a_router_that_lists_no_price_has_none() -> None:
    # As OpenRouter's auto router: what it bills depends on the model that it takes.
    with endpoint(prices=Prices(prompt=-1.0, completion=-1.0)) as served:
        assert Listing(served.url, MODEL).prices() is None


def test_without_a_key_the_others_are_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("OPENROUTER_API_KEY")
    with endpoint() as served:
        with pytest.raises(BakeError, match="OPENROUTER_API_KEY: is not set") as caught:
            openrouter_provider(model=MODEL, base_url=served.url).generate(job())
        assert not served.meter.by_path
    assert "data.provider=self" in str(caught.value)
    assert "data.provider=openai" in str(caught.value)
