"""The provider `openrouter`: any model of OpenRouter, with its prices."""

from __future__ import annotations

from typing import Annotated, Any

from annotated_types import Ge, Gt

from promptbake import RUNTIME_ONLY, DataProvider, Factories, hookimpl, requires

PROMPTBAKE_API = 2
Count = Annotated[int, Gt(0), RUNTIME_ONLY]
Seconds = Annotated[float, Gt(0), RUNTIME_ONLY]
HOSTED = "https://openrouter.ai/api/v1"


@requires(modules=("openai",), install="promptbake[openai]", keys=("OPENROUTER_API_KEY",))
def openrouter_provider(
    *,
    model: str,
    base_url: Annotated[str, RUNTIME_ONLY] = HOSTED,
    routing: dict[str, Any] | None = None,
    concurrency: Count = 20,
    timeout: Seconds = 120.0,
    max_retries: Annotated[int, Ge(0), RUNTIME_ONLY] = 6,
    allow_truncated: bool = False,
    referer: Annotated[str | None, RUNTIME_ONLY] = None,
    title: Annotated[str, RUNTIME_ONLY] = "promptbake",
    body: dict[str, Any] | None = None,
) -> DataProvider:
    """Ask OpenRouter for the prompted model's responses.

    The key comes from OPENROUTER_API_KEY; prices and context sizes from its list of models, and the
    cost of each call from its answer. `routing` is OpenRouter's `provider` object (order,
    allow_fallbacks, quantizations, ...); `referer` and `title` attribute the calls to you. `body`
    is added to each request. The others are as in the provider `openai`.
    """
    from promptbake_openai.endpoint import Endpoint
    from promptbake_openai.gate import Gate
    from promptbake_openai.provider import ChatProvider
    from promptbake_openrouter.models import Listing

    headers = {"X-Title": title} | ({"HTTP-Referer": referer} if referer else {})
    extra = {"usage": {"include": True}} | ({"provider": routing} if routing else {})
    endpoint = Endpoint(
        model,
        base_url,
        "OPENROUTER_API_KEY",
        gate=Gate(),
        timeout=timeout,
        max_retries=max_retries,
        connections=concurrency,
        without_key=(
            " (openrouter.ai/keys), or let somebody else answer: data.provider=self, the base "
            "model itself, or data.provider=openai, an endpoint of your own"
        ),
        headers=headers,
        body=extra | (body or {}),
    )
    listing = Listing(base_url, model)
    return ChatProvider(
        [endpoint],
        listing.prices,
        concurrency=concurrency,
        allow_truncated=allow_truncated,
        check=listing.check,
    )


@hookimpl
def promptbake_register_data_providers() -> Factories[DataProvider]:
    """The provider `openrouter`."""
    return {"openrouter": openrouter_provider}
