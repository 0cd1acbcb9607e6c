"""POST /v1/chat/completions: a text that depends on the request, and on nothing else."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from typing import Any

from promptbake_loopback.errors import HttpError
from promptbake_loopback.openai.meter import identity
from promptbake_loopback.openai.prices import Prices, Usage, framed

Texts = Callable[[dict[str, Any]], str | Mapping[str, Any]]

NATURE = """\
amber anchor apple arrow autumn barley basket bell birch bridge candle canyon cedar circle clay
cliff cloud copper coral cotton crane dawn delta drift ember fern field flint forest garden glass
grain harbor hazel hill honey island ivory lake lantern leaf lemon linen maple marble meadow mint
moon oak olive orchard paper pebble pine plum quartz reef river saffron sail silver snow stone
thistle"""
WORDS = NATURE.split()
TOKEN = re.compile(r"\s*\S+")  # as if each word were one
OVERHEAD = 3  # tokens of a message besides its text


def default_text(request: Mapping[str, Any]) -> str:
    """8 to 24 words: the same for the same messages, temperature, seed and model."""
    digest = bytes.fromhex(identity(request))
    words = [WORDS[byte % len(WORDS)] for byte in digest[: 8 + digest[-1] % 17]]
    return " ".join(words).capitalize() + "."


def complete(
    request: dict[str, Any], texts: Texts, prices: Prices, number: int
) -> tuple[dict[str, Any], Usage]:
    """OpenAI's chat completion, and what it costs. Raises HttpError 400.

    `texts` gives the content; or a mapping with the fields of the message, and `finish_reason`
    beside them where it is not to be `stop` or `length`.
    """
    limit = _limit(request)
    messages = _messages(request)
    found = texts(request)
    message: dict[str, Any] = {"role": "assistant", "content": None}
    message |= {"content": found} if isinstance(found, str) else found
    reason = message.pop("finish_reason", None)
    content = message["content"] or ""
    if limit is not None and len(tokens := TOKEN.findall(content)) > limit:
        message["content"] = "".join(tokens[:limit])
        reason = reason or "length"
    prompt_tokens = sum(OVERHEAD + _count(text) for text in messages)
    completion_tokens = _count(message["content"] or "") + _count(message.get("reasoning") or "")
    usage = prices.bill(prompt_tokens, completion_tokens)
    choice = {
        "index": 0,
        "message": message,
        "logprobs": None,
        "finish_reason": reason or "stop",
    }
    name = f"chatcmpl-{number}"
    body = framed("chat.completion", name, request["model"], [choice], usage)
    if _from_openrouter(request):
        body["provider"] = "Loopback"
        body["usage"]["cost"] = usage.dollars
    return body, usage


def _from_openrouter(request: dict[str, Any]) -> bool:
    usage = request.get("usage")
    return "provider" in request or (isinstance(usage, dict) and usage.get("include") is True)


def _limit(request: dict[str, Any]) -> int | None:
    """Check the options; the most tokens of a completion."""
    for name, only in (("n", 1), ("stream", False)):
        if request.get(name) not in (None, only):
            raise HttpError(400, f"this endpoint gives {name}={only} only", param=name)
    temperature = request.get("temperature")
    if temperature is not None and not (_is_number(temperature) and 0 <= temperature <= 2):
        raise HttpError(400, "temperature is a number from 0 to 2", param="temperature")
    seed = request.get("seed")
    if seed is not None and (not isinstance(seed, int) or isinstance(seed, bool)):
        raise HttpError(400, "seed is an integer", param="seed")
    for name in ("max_completion_tokens", "max_tokens"):
        if (limit := request.get(name)) is not None:
            if not isinstance(limit, int) or limit < 1:
                raise HttpError(400, f"{name} is an integer, at least 1", param=name)
            return limit
    return None


def _messages(request: dict[str, Any]) -> list[str]:
    """The texts of the messages."""
    messages = request.get("messages")
    if not isinstance(messages, list) or not messages:
        raise HttpError(400, "messages is a list of at least one message", param="messages")
    texts = []
    for message in messages:
        if not isinstance(message, dict) or not isinstance(message.get("role"), str):
            raise HttpError(400, "a message has a role and a content", param="messages")
        content = message.get("content")
        if isinstance(content, list):
            content = " ".join(str(part.get("text", "")) for part in content)
        if content is not None and not isinstance(content, str):
            raise HttpError(400, "a message's content is a text, or parts", param="messages")
        texts.append(content or "")
    return texts


def _count(text: str) -> int:
    return len(TOKEN.findall(text))


def _is_number(value: object) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)
