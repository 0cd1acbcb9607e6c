"""The two ways in which a fake server refuses something."""

from __future__ import annotations


class HttpError(Exception):
    """A response with another status than 200; `code` and `param` are fields of OpenAI's errors."""

    def __init__(
        self, status: int, detail: str, code: str | int | None = None, param: str | None = None
    ) -> None:
        super().__init__(detail)
        self.status, self.detail = status, detail
        self.code, self.param = code, param


class UserError(Exception):
    """An operation of Tinker's that was accepted, and fails through the client's own mistake.

    The future fails with category `user`.
    """
