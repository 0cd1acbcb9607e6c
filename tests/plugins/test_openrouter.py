"""The provider `openrouter` against a fake endpoint: its requests, and OpenRouter's model list."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

import pytest
from fake_openai import KEY, ChatEndpoint
from generation_jobs import job, requests

from promptbake import BakeError, Conversation, DataProvider
from promptbake.testing import DataProviderSuite
from promptbake_loopback.openai import Prices
from promptbake_openrouter import openrouter_provider
from promptbake_openrouter.model_list import ListedModel

MODEL = "maker/large"


@pytest.fixture(autouse=True)
def openrouter_key(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OPENROUTER_API_KEY", KEY)


class TestOpenRouterProvider(DataProviderSuite):
    paid = True
    several_turns = True
    keys = ("OPENROUTER_API_KEY",)

    @pytest.fixture
    def provider(self) -> Iterator[DataProvider]:
        with serving() as endpoint:
            yield create(endpoint)

    @pytest.fixture
    def broken(self) -> Iterator[DataProvider]:
        with serving(faults=1.0, kinds=("401",)) as endpoint:
            yield create(endpoint)


def serving(**options: Any) -> ChatEndpoint:
    return ChatEndpoint(key=KEY, models=("maker/small", MODEL), **options)


def create(endpoint: ChatEndpoint, model: str = MODEL, **options: Any) -> DataProvider:
    return openrouter_provider(model=model, base_url=endpoint.url, **options)


def test_the_cost_is_what_the_response_reports() -> None:
    with serving(prices=Prices(prompt=0.25, completion=2.0)) as endpoint:
        (conversation,) = create(endpoint).generate(job(requests("a")))
        dollars = endpoint.meter.dollars
    assert isinstance(conversation, Conversation)
    assert (conversation.meta["provider"], conversation.meta["model"]) == ("Loopback", MODEL)
    assert conversation.meta["dollars"] == dollars > 0


def test_a_request_has_the_routing_and_the_body() -> None:
    bodies: list[Mapping[str, Any]] = []

    def record(request: Mapping[str, Any]) -> str:
        bodies.append(request)
        return "Hm."

    routing = {"order": ["one", "two"], "allow_fallbacks": False}
    with serving(answer=record) as endpoint:
        provider = create(endpoint, routing=routing, body={"top_k": 5})
        list(provider.generate(job(requests("a"))))
    added = {"provider": routing, "usage": {"include": True}, "top_k": 5}
    assert bodies[0].items() >= added.items()


def test_a_cost_estimate_has_the_prices_of_the_list() -> None:
    with serving(prices=Prices(prompt=1e-6, completion=2e-6)) as endpoint:
        estimate = create(endpoint).estimate_cost(job(requests("a")))
        prices = ListedModel(endpoint.url, MODEL).prices()
        assert endpoint.meter.requests == 0
    assert prices is not None
    assert (prices.prompt, prices.completion) == pytest.approx((1.0, 2.0))
    assert estimate.priced
    assert estimate.usage.dollars == pytest.approx((estimate.usage.input_tokens + 2 * 32) / 1e6)
    assert MODEL in estimate.source


def test_without_the_list_there_are_no_prices_and_no_run() -> None:
    with serving() as endpoint:
        provider = create(endpoint)
    assert not provider.estimate_cost(job(requests("a"))).priced
    with pytest.raises(BakeError, match="models: could not download it: ") as caught:
        provider.generate(job(requests("a")))
    assert KEY not in str(caught.value)


def test_an_unknown_model_is_refused_with_the_nearest_name() -> None:
    message = r"^options\.data_providers\.openrouter\.model: .* has no 'maker/larg' .*maker/large"
    with serving() as endpoint:
        with pytest.raises(BakeError, match=message):
            create(endpoint, "maker/larg").generate(job(requests("a")))
        assert endpoint.meter.requests == 0


@pytest.mark.parametrize(("fits", "too_long"), [((50, 1), (99, 1)), ((15, 3), (50, 3))])
def test_a_context_that_is_too_short_is_refused_by_the_query(
    fits: tuple[int, int], too_long: tuple[int, int]
) -> None:
    """By tokens and turns; the last request reads every earlier turn."""
    with serving(context_length=100) as endpoint:
        provider = create(endpoint)
        list(provider.generate(job(requests("a"), max_tokens=fits[0], turns=fits[1])))
        with pytest.raises(BakeError, match=r"query a: may take .* holds 100; .*data\.max_tokens"):
            provider.generate(job(requests("a"), max_tokens=too_long[0], turns=too_long[1]))


def test_a_router_without_a_price_has_none() -> None:
    # As OpenRouter's auto router: what it bills depends on the model that it picks.
    with serving(prices=Prices(prompt=-1.0, completion=-1.0)) as endpoint:
        assert ListedModel(endpoint.url, MODEL).prices() is None


def test_without_a_key_other_providers_are_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("OPENROUTER_API_KEY")
    message = r"OPENROUTER_API_KEY: is not set.*data\.provider=self.*data\.provider=openai"
    with serving() as endpoint:
        with pytest.raises(BakeError, match=message):
            create(endpoint).generate(job(requests("a")))
        assert not endpoint.meter.by_path
