"""OpenAI's form of an error."""

from __future__ import annotations

from typing import Any

from promptbake_loopback.errors import HttpError


def error_body(error: HttpError, kind: str | None = None) -> dict[str, Any]:
    """The JSON of an error; OpenRouter's has the status as its code."""
    default = "server_error" if error.status >= 500 else "invalid_request_error"
    return {
        "error": {
            "message": error.detail,
            "type": kind or default,
            "param": error.param,
            "code": error.code,
        }
    }
