"""The evaluator `judge`: a chat model compares baked and prompted answers without knowing which."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

from annotated_types import Ge, Gt

from promptbake import RUNTIME_ONLY, Evaluator, Factories, hookimpl, requires

PROMPTBAKE_API = 2
RUBRIC = Path(__file__).with_name("rubric.md")
Count = Annotated[int, Gt(0)]


@requires(modules=("openai",), install="promptbake[openai]", keys=("OPENAI_API_KEY",))
def judge(
    *,
    model: str,
    base_url: Annotated[str | list[str] | None, RUNTIME_ONLY] = None,
    rubric: Path | None = None,
    max_tokens: Count = 64,
    concurrency: Annotated[int, Gt(0), RUNTIME_ONLY] = 8,
    timeout: Annotated[float, Gt(0), RUNTIME_ONLY] = 120.0,
    max_retries: Annotated[int, Ge(0), RUNTIME_ONLY] = 6,
    prices: Annotated[dict[str, Annotated[float, Ge(0)]] | None, RUNTIME_ONLY] = None,
    body: dict[str, Any] | None = None,
) -> Evaluator:
    """Let a chat model compare the baked answers to the test questions with the prompted ones.

    It reads the prompt, the question and the two answers, without a word on whose they are, once in
    each order. The key is read from OPENAI_API_KEY.

    Args:
        model: The judge's name at the endpoint.
        base_url: As of the data provider `openai`.
        rubric: A file of instructions, which must ask for the reply A, B or tie; promptbake's own
            where it is not given.
        max_tokens: The most tokens of a reply; a model that reasons needs more.
        concurrency: The most requests in flight.
        timeout: Seconds without a response after which a request is sent again.
        max_retries: How often a request that is lost or rate-limited is sent again.
        prices: `prompt` and `completion`, in dollars per million tokens.
        body: Fields that are added to each request.
    """
    from promptbake_judge.pairwise import Judge
    from promptbake_openai import openai_provider

    provider = openai_provider(
        model=model,
        base_url=base_url,
        concurrency=concurrency,
        timeout=timeout,
        max_retries=max_retries,
        same_model=True,
        prices=prices,
        body=body,
    )
    return Judge(provider, rubric or RUBRIC, model, max_tokens, body or {})


@hookimpl
def promptbake_register_evaluators() -> Factories[Evaluator]:
    """The evaluator `judge`."""
    return {"judge": judge}
