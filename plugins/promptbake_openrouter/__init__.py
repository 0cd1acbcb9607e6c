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
    drop_truncated: bool = False,
    same_model: bool = False,
    referer: Annotated[str | None, RUNTIME_ONLY] = None,
    title: Annotated[str, RUNTIME_ONLY] = "promptbake",
    body: dict[str, Any] | None = None,
) -> DataProvider:
    """Request the prompted model's responses from OpenRouter.

    The key is read from OPENROUTER_API_KEY. Prices and context sizes are those of OpenRouter's list
    of models, and a call's cost is what its response reports. The options that are not listed are
    those of the provider `openai`.

    Args:
        model: As OpenRouter names it, such as "qwen/qwen3-8b".
        routing: OpenRouter's `provider` object: order, allow_fallbacks, quantizations, ...
        referer: An address of yours that OpenRouter attributes the calls to.
        title: The name that it shows for them.
        body: Fields that are added to each request.
    """
    from promptbake_openai import ChatProvider, Endpoint
    from promptbake_openrouter.model_list import ListedModel

    headers = {"X-Title": title} | ({"HTTP-Referer": referer} if referer else {})
    fields = {"usage": {"include": True}} | ({"provider": routing} if routing else {})
    endpoint = Endpoint(
        model,
        base_url,
        "OPENROUTER_API_KEY",
        timeout=timeout,
        max_retries=max_retries,
        connections=concurrency,
        key_hint=(
            " (openrouter.ai/keys), or choose another provider: data.provider=self, the base "
            "model itself, or data.provider=openai, an endpoint of your own"
        ),
        headers=headers,
        body=fields | (body or {}),
    )
    listed = ListedModel(base_url, model)
    return ChatProvider(
        [endpoint],
        listed.prices,
        options="options.data_providers.openrouter",
        concurrency=concurrency,
        drop_truncated=drop_truncated,
        same_model=same_model,
        check=listed.check,
    )


@hookimpl
def promptbake_register_data_providers() -> Factories[DataProvider]:
    """The provider `openrouter`."""
    return {"openrouter": openrouter_provider}
