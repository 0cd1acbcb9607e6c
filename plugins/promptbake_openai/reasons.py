"""Why an endpoint refused a request, or could not be reached, as it says itself."""

from __future__ import annotations

import json
import re
import socket
import ssl
from collections.abc import Iterator
from typing import Any

import openai

TITLE = re.compile(r"<title[^>]*>(.*?)</title>", flags=re.DOTALL | re.IGNORECASE)


def reason_of(error: openai.OpenAIError) -> str:
    """The reason in an error's body, wherever it stands; else the error's own words.

    It may be a `message`, an `error` that is a text, FastAPI's `detail` (a text, or a list of
    problems), a page's title, or plain text.
    """
    response = getattr(error, "response", None)
    text = response.text if response is not None else ""
    return _on_one_line(_from_body(text)) or _on_one_line(str(error))


def is_lasting(error: BaseException) -> bool:
    """Whether a connection fails for a reason that does not pass by itself.

    A refused port, a name that does not exist, or https where the server speaks http.
    """
    return any(
        isinstance(each, ConnectionRefusedError | ssl.SSLError)
        or (isinstance(each, socket.gaierror) and each.errno != socket.EAI_AGAIN)
        for each in _causes(error)
    )


def connection_reason(error: openai.APIConnectionError) -> str:
    """Why there is no connection, with what to do where that is known."""
    causes = list(_causes(error))
    if any("WRONG_VERSION_NUMBER" in str(each) for each in causes):
        return "it speaks http and not https: change the address to http://..."
    return str(error.__cause__ or error)


def _from_body(text: str) -> str:
    try:
        body: Any = json.loads(text)
    except (ValueError, RecursionError):
        if not text.lstrip().startswith("<"):
            return text
        title = TITLE.search(text)
        return title[1] if title else re.sub(r"<[^>]*>", " ", text)
    return _from_json(body) or text


def _from_json(value: Any) -> str:
    """The text under the first key that holds one."""
    if isinstance(value, str):
        return value
    if isinstance(value, list):  # FastAPI's, each with the place (`loc`) and the problem (`msg`)
        return "; ".join(filter(None, map(_from_json, value[:3])))
    if not isinstance(value, dict):
        return ""
    place = value.get("loc")
    where = ".".join(map(str, place)) + ": " if isinstance(place, list) else ""
    for key in ("message", "error", "detail", "msg"):
        if text := _from_json(value.get(key)):
            return where + text
    return ""


def _causes(error: BaseException) -> Iterator[BaseException]:
    seen: BaseException | None = error
    while seen is not None:
        yield seen
        seen = seen.__cause__ or seen.__context__


def _on_one_line(text: str) -> str:
    return " ".join(text.split())
