"""The provider and the teacher `openai`: any endpoint with OpenAI's API, or a fleet of them."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Annotated, Any

from annotated_types import Ge, Gt

from promptbake import RUNTIME_ONLY, BakeError, DataProvider, Factories, Teacher, hookimpl, requires

if TYPE_CHECKING:
    from promptbake_openai.endpoint import Endpoint
    from promptbake_openai.prices import Prices

PROMPTBAKE_API = 2
Count = Annotated[int, Gt(0), RUNTIME_ONLY]
Seconds = Annotated[float, Gt(0), RUNTIME_ONLY]
HOSTED = "https://api.openai.com/v1"


@requires(modules=("openai",), install="promptbake[openai]", keys=("OPENAI_API_KEY",))
def openai_provider(
    *,
    model: str,
    base_url: Annotated[str | list[str] | None, RUNTIME_ONLY] = None,
    concurrency: Count = 20,
    timeout: Seconds = 120.0,
    max_retries: Annotated[int, Ge(0), RUNTIME_ONLY] = 6,
    allow_truncated: bool = False,
    prices: Annotated[dict[str, Annotated[float, Ge(0)]] | None, RUNTIME_ONLY] = None,
    body: dict[str, Any] | None = None,
) -> DataProvider:
    """Ask chat endpoints for the prompted model's responses.

    The key comes from OPENAI_API_KEY, the address from OPENAI_BASE_URL where `base_url` is not
    given; several addresses, in a list or separated by commas, share the requests. `concurrency` is
    for all of them together. A request that gets no answer in `timeout` seconds, or is told to come
    again, is repeated up to `max_retries` times. A response that data.max_tokens cut is left out,
    unless `allow_truncated`. `prices` are `prompt` and `completion`, in dollars per million tokens;
    `body` is added to each request.
    """
    from promptbake_openai.provider import ChatProvider

    made = _prices(prices)
    endpoints = _endpoints(model, base_url, concurrency, timeout, max_retries, body)
    return ChatProvider(
        endpoints, lambda: made, concurrency=concurrency, allow_truncated=allow_truncated
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
    """Ask an endpoint that returns prompt_logprobs, as vLLM's /completions, for the top K.

    It must serve the base model itself. The key comes from OPENAI_API_KEY, the address from
    OPENAI_BASE_URL where `base_url` is not given; several addresses share the requests. vLLM gives
    up to 20 log-probabilities a token unless --max-logprobs says more.
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
    from promptbake_openai.gate import Gate

    found = base_url or os.environ.get("OPENAI_BASE_URL") or HOSTED
    urls = found.split(",") if isinstance(found, str) else found
    return [
        Endpoint(
            model,
            url.strip(),
            "OPENAI_API_KEY",
            gate=Gate(),
            timeout=timeout,
            max_retries=max_retries,
            connections=concurrency,
            without_key="; a server of your own takes any, such as 'none'",
            body=body,
        )
        for url in urls
    ]


def _prices(given: dict[str, float] | None) -> Prices | None:
    from promptbake_openai.prices import Prices

    if given is None:
        return None
    if set(given) != {"prompt", "completion"}:
        raise BakeError(
            "options.data_providers.openai.prices: expected prompt and completion; found "
            f"{', '.join(given) or 'nothing'}"
        )
    return Prices(given["prompt"], given["completion"], "options.data_providers.openai.prices")


@hookimpl
def promptbake_register_teachers() -> Factories[Teacher]:
    """The teacher `openai`."""
    return {"openai": openai_teacher}


@hookimpl
def promptbake_register_data_providers() -> Factories[DataProvider]:
    """The provider `openai`."""
    return {"openai": openai_provider}
