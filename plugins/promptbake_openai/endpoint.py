"""One chat endpoint: its address, its key, its client, its errors in plain words."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping, Sequence
from functools import cached_property
from typing import Any

import httpx2
import openai

from promptbake import BakeError, Message
from promptbake_openai.gate import Gate

SEEDS = 2**31  # an endpoint's seed is a small integer


class Endpoint:
    """A model at an address that speaks the OpenAI chat API.

    Lost requests are repeated by the openai client itself, `max_retries` times with growing
    pauses, or when the endpoint says; the gate holds all other requests back meanwhile.
    """

    def __init__(
        self,
        model: str,
        url: str,
        key_name: str,
        *,
        gate: Gate,
        timeout: float,
        max_retries: int,
        connections: int,
        without_key: str = "",
        headers: Mapping[str, str] | None = None,
        body: Mapping[str, Any] | None = None,
    ) -> None:
        self.model, self.url, self._key_name = model, url, key_name
        self._gate, self._timeout, self._max_retries = gate, timeout, max_retries
        self._connections, self._without_key = connections, without_key
        self._headers, self._body = dict(headers or {}), dict(body or {})
        self.sent = self.asked = 0

    @property
    def repeated(self) -> int:
        """Requests that the client had to send again."""
        return max(self.sent - self.asked, 0)

    def check(self) -> None:
        """Raise BakeError where there is no key, or one that cannot be sent."""
        key = os.environ.get(self._key_name, "")
        if not key:
            raise BakeError(f"{self._key_name}: is not set; export it{self._without_key}")
        if not (key.isascii() and key.isprintable()) or " " in key:
            raise BakeError(
                f"{self._key_name}: holds what no key does, such as a space or a line's end"
            )

    @cached_property
    def client(self) -> openai.OpenAI:
        """The client, with the gate in it."""
        limits = httpx2.Limits(
            max_connections=self._connections, max_keepalive_connections=self._connections
        )
        hooks: dict[str, list[Callable[..., Any]]] = {
            "request": [self._note, self._gate.pass_through],
            "response": [self._gate.note],
        }
        http = httpx2.Client(timeout=self._timeout, limits=limits, event_hooks=hooks)
        return openai.OpenAI(
            api_key=os.environ[self._key_name],
            base_url=self.url,
            max_retries=self._max_retries,
            timeout=self._timeout,
            http_client=http,
            default_headers=self._headers,
        )

    def ask(
        self, messages: Sequence[Message], temperature: float, max_tokens: int, seed: int
    ) -> str:
        """The body of the endpoint's answer. Raises openai.OpenAIError where there is none."""
        self.asked += 1
        request = {
            "model": self.model,
            "messages": [{"role": each.role, "content": each.content} for each in messages],
            "temperature": temperature,
            "max_tokens": max_tokens,
            "seed": seed % SEEDS,
            **self._body,
        }
        # As a plain body: the client's typed call takes twice as long.
        answer = self.client.post("/chat/completions", body=request, cast_to=httpx2.Response)
        return answer.text

    def complete(self, prompt: Sequence[int], body: Mapping[str, Any]) -> str:
        """The body of the answer to a prompt of token ids: one greedy token, and what `body` asks.

        Raises openai.OpenAIError where there is none.
        """
        self.asked += 1
        request = {
            "model": self.model,
            "prompt": list(prompt),
            "max_tokens": 1,
            "temperature": 0,
            **self._body,
            **body,
        }
        return self.client.post("/completions", body=request, cast_to=httpx2.Response).text

    def close(self) -> None:
        """Close its connections."""
        if "client" in vars(self):
            self.client.close()
            del self.client

    def explained(self, error: openai.OpenAIError) -> tuple[str, bool]:
        """The error in plain words, and whether every other request would meet it, too."""
        problem, final = self._explained(error)
        return problem.replace(os.environ[self._key_name], "***"), final

    def _explained(self, error: openai.OpenAIError) -> tuple[str, bool]:
        reason = _reason(error)
        if isinstance(error, openai.AuthenticationError):
            return f"{self._key_name}: {self.url} refuses it: {reason}", True
        if isinstance(error, openai.APIStatusError) and error.status_code == 402:
            return (
                f"{self.url}: there is no money left: {reason}; add some, and go on from here",
                True,
            )
        if getattr(error, "code", None) == "insufficient_quota":
            return f"{self.url}: the quota is used up: {reason}; raise it and go on", True
        if isinstance(error, openai.PermissionDeniedError):
            return f"{self.url}: does not permit it: {reason}", True
        if isinstance(error, openai.NotFoundError):
            return f"{self.url}: has no model {self.model!r}: {reason}; set another", True
        if isinstance(error, openai.APITimeoutError):
            return f"{self.url}: no answer in {self._timeout:g} seconds", False
        if isinstance(error, openai.APIConnectionError):
            return f"{self.url}: cannot be reached: {error.__cause__ or reason}", False
        return f"{self.url}: {reason}", False

    def _note(self, request: httpx2.Request) -> None:
        self.sent += 1


def _reason(error: openai.OpenAIError) -> str:
    body = getattr(error, "body", None)
    if isinstance(body, dict) and body.get("message"):
        return " ".join(str(body["message"]).split())[:200]
    return " ".join(str(error).split())[:200]
