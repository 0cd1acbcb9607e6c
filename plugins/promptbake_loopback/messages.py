"""One HTTP request, and the answer to it."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import unquote, urlsplit

from promptbake_tinker.loopback.errors import HttpError

JSON, PROTOBUF, BYTES = "application/json", "application/x-protobuf", "application/octet-stream"


@dataclass(frozen=True)
class Request:
    """What came in."""

    method: str
    target: str
    key: str  # of the header X-API-Key
    body: bytes

    @property
    def path(self) -> str:
        """Without the query."""
        return unquote(urlsplit(self.target).path)

    @property
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
    """What goes out; where it is `dropped`, the connection closes instead."""

    status: int = 200
    body: bytes = b"{}"
    content_type: str = JSON
    headers: Mapping[str, str] = field(default_factory=dict)
    dropped: bool = False


def in_json(value: Any, status: int = 200) -> Answer:
    """An answer in JSON."""
    return Answer(status, json.dumps(value).encode())
