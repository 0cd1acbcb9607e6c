"""One HTTP request, and the answer to it."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

JSON = "application/json"


class HttpError(Exception):
    """An answer that is no 200, with a body in OpenAI's form."""

    def __init__(
        self, status: int, message: str, code: str | int | None = None, param: str | None = None
    ) -> None:
        super().__init__(message)
        self.status = status
        self.message = message
        self.code = code
        self.param = param

    @property
    def answer(self) -> Answer:
        """What goes out."""
        kind = "server_error" if self.status >= 500 else "invalid_request_error"
        return in_json(error_body(self.message, kind, self.code, self.param), self.status)


@dataclass(frozen=True)
class Request:
    """What came in."""

    method: str
    target: str
    headers: Mapping[str, str]  # names in small letters
    body: bytes

    @property
    def path(self) -> str:
        """Without the query."""
        return self.target.partition("?")[0]

    @property
    def key(self) -> str:
        """The bearer's."""
        return self.headers.get("authorization", "").removeprefix("Bearer ")

    @property
    def closing(self) -> bool:
        """Whether the client wants the connection closed after the answer."""
        return self.headers.get("connection", "").lower() == "close"

    def json(self) -> dict[str, Any]:
        """The body. Raises HttpError 400."""
        try:
            found = json.loads(self.body or b"{}")
        except ValueError as error:
            raise HttpError(400, f"the body is no JSON: {error}") from None
        if not isinstance(found, dict):
            raise HttpError(400, "the body is no JSON object")
        return found


@dataclass(frozen=True)
class Answer:
    """What goes out; where it is `reset`, the connection breaks in the middle of the body."""

    status: int = 200
    body: bytes = b"{}"
    content_type: str = JSON
    headers: Mapping[str, str] = field(default_factory=dict)
    reset: bool = False


def in_json(value: Any, status: int = 200, headers: Mapping[str, str] | None = None) -> Answer:
    """An answer in JSON."""
    return Answer(status, json.dumps(value).encode(), headers=headers or {})


def error_body(
    message: str, kind: str, code: str | int | None = None, param: str | None = None
) -> dict[str, Any]:
    """OpenAI's form of an error; OpenRouter's has the status as its code."""
    return {"error": {"message": message, "type": kind, "param": param, "code": code}}
