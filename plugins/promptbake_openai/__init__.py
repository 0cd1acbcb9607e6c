"""The provider and the teacher `openai`: any endpoint with OpenAI's API, or a fleet of them.

The names in `__all__` are public: another plugin may build on them, as promptbake_openrouter does.
"""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Annotated, Any

import lazy_loader
from annotated_types import Ge, Gt

from promptbake import RUNTIME_ONLY, BakeError, DataProvider, Factories, Teacher, hookimpl, requires

if TYPE_CHECKING:
    from promptbake_openai.bounded_transport import BoundedTransport
    from promptbake_openai.chat import max_usage
    from promptbake_openai.endpoint import Endpoint
    from promptbake_openai.prices import Prices
    from promptbake_openai.provider import ChatProvider
    from promptbake_openai.teacher import OpenAITeacher

__all__ = [
    "BoundedTransport",
    "ChatProvider",
    "Endpoint",
    "OpenAITeacher",
    "Prices",
    "max_usage",
    "openai_provider",
    "openai_teacher",
]

PROMPTBAKE_API = 2
Count = Annotated[int, Gt(0), RUNTIME_ONLY]
Seconds = Annotated[float, Gt(0), RUNTIME_ONLY]
HOSTED = "https://api.openai.com/v1"
PROVIDER = "options.data_providers.openai"
_PUBLIC = {  # by the module, which is imported at the first use of a name
    "bounded_transport": ["BoundedTransport"],
    "chat": ["max_usage"],
    "endpoint": ["Endpoint"],
    "prices": ["Prices"],
    "provider": ["ChatProvider"],
    "teacher": ["OpenAITeacher"],
}
# Without a __dir__, which would let pluggy import every name where it looks for hooks.
__getattr__ = lazy_loader.attach(__name__, submod_attrs=_PUBLIC)[0]


@requires(modules=("openai",), install="promptbake[openai]", keys=("OPENAI_API_KEY",))
def openai_provider(
    *,
    model: str,
    base_url: Annotated[str | list[str] | None, RUNTIME_ONLY] = None,
    concurrency: Count = 20,
    timeout: Seconds = 120.0,
    max_retries: Annotated[int, Ge(0), RUNTIME_ONLY] = 6,
    drop_truncated: bool = False,
    same_model: bool = False,
    prices: Annotated[dict[str, Annotated[float, Ge(0)]] | None, RUNTIME_ONLY] = None,
    body: dict[str, Any] | None = None,
) -> DataProvider:
    """Request the prompted model's responses from chat endpoints.

    The key is read from OPENAI_API_KEY.

    Args:
        model: The model's name at the endpoint.
        base_url: The endpoint's address; OPENAI_BASE_URL, or OpenAI's own, where it is not given.
            Several, in a list or separated by commas, share the requests.
        concurrency: The most requests in flight, over all endpoints: fewer where that is as fast.
        timeout: Seconds without a response after which a request is sent again.
        max_retries: How often a request that is lost or rate-limited is sent again.
        drop_truncated: Leave out responses that data.max_tokens cut. Otherwise they are kept
            without an end of turn.
        same_model: The endpoint's model is the one that is baked, by another name.
        prices: `prompt` and `completion`, in dollars per million tokens.
        body: Fields that are added to each request. Neutral values of top_p, top_k, min_p and
            repetition_penalty are there already, where the endpoint accepts them.
    """
    from promptbake_openai.provider import ChatProvider

    known_prices = _prices(prices)
    endpoints = _endpoints(model, base_url, concurrency, timeout, max_retries, body)
    return ChatProvider(
        endpoints,
        lambda: known_prices,
        options=PROVIDER,
        concurrency=concurrency,
        drop_truncated=drop_truncated,
        same_model=same_model,
    )


@requires(modules=("openai",), install="promptbake[openai]", keys=("OPENAI_API_KEY",))
def openai_teacher(
    *,
    model: str,
    base_url: Annotated[str | list[str] | None, RUNTIME_ONLY] = None,
    concurrency: Count = 20,
    timeout: Seconds = 120.0,
    max_retries: Annotated[int, Ge(0), RUNTIME_ONLY] = 6,
) -> Teacher:
    """Request the top K from an endpoint that returns prompt_logprobs, as vLLM's /completions.

    It must serve the base model itself. vLLM returns up to 20 log-probabilities a token, or what
    --max-logprobs allows. The options are those of the provider `openai`.
    """
    from promptbake_openai.teacher import OpenAITeacher

    endpoints = _endpoints(model, base_url, concurrency, timeout, max_retries, None)
    return OpenAITeacher(endpoints, concurrency=concurrency)


def _endpoints(
    model: str,
    base_url: str | list[str] | None,
    concurrency: int,
    timeout: float,
    max_retries: int,
    body: dict[str, Any] | None,
) -> list[Endpoint]:
    from promptbake_openai.endpoint import Endpoint

    variable = os.environ.get("OPENAI_BASE_URL")
    if base_url is None and variable is not None and not variable.strip():
        raise BakeError(
            "OPENAI_BASE_URL: is set and empty; set it to the endpoint's address, or unset it for "
            f"{HOSTED}"
        )
    addresses = base_url if base_url is not None else variable or HOSTED
    urls = addresses.split(",") if isinstance(addresses, str) else addresses
    if not urls:
        raise BakeError("base_url = []: expected at least one address")
    return [
        Endpoint(
            model,
            url.strip(),
            "OPENAI_API_KEY",
            timeout=timeout,
            max_retries=max_retries,
            connections=concurrency,
            key_hint="; a server of your own takes any, such as 'none'",
            body=body,
        )
        for url in urls
    ]


def _prices(option: dict[str, float] | None) -> Prices | None:
    from promptbake_openai.prices import Prices

    if option is None:
        return None
    source = f"{PROVIDER}.prices"
    if set(option) != {"prompt", "completion"}:
        raise BakeError(
            f"{source}: expected prompt and completion; found {', '.join(option) or 'nothing'}"
        )
    return Prices(option["prompt"], option["completion"], source)


@hookimpl
def promptbake_register_teachers() -> Factories[Teacher]:
    """The teacher `openai`."""
    return {"openai": openai_teacher}


@hookimpl
def promptbake_register_data_providers() -> Factories[DataProvider]:
    """The provider `openai`."""
    return {"openai": openai_provider}
