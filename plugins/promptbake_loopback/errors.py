"""The two ways in which the server says no."""

from __future__ import annotations


class HttpError(Exception):
    """An answer that is no 200, at once."""

    def __init__(self, status: int, detail: str) -> None:
        super().__init__(detail)
        self.status = status
        self.detail = detail


class UserError(Exception):
    """An operation that was accepted and then failed by the client's own doing.

    The future fails with category `user`.
    """
