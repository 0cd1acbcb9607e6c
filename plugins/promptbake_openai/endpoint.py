"""One chat endpoint: its address, its key, its client, and its errors in plain words."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping, Sequence
from functools import cached_property
from typing import Any

import httpx2
import openai

from promptbake import BakeError, Message, excerpt
from promptbake_openai.bounded_transport import BoundedTransport
from promptbake_openai.neutral_sampling import Fields, NeutralSampling, is_refusal
from promptbake_openai.rate_limit import LONGEST, RateLimitGate
from promptbake_openai.reasons import connection_reason, is_lasting, reason_of

SEEDS = 2**31  # an endpoint's seed is a small integer
PROBE_TIMEOUT = 10.0  # seconds


class Endpoint:
    """A model at an address that speaks the OpenAI chat API.

    The openai client sends lost and rate-limited requests again by itself; meanwhile a gate holds
    back all other requests to a rate-limited endpoint.

    Args:
        model: The model's name at the endpoint.
        url: The address, up to `/v1`.
        key_name: The environment variable that holds the key.
        timeout: Seconds without a response after which a request is sent again.
        max_retries: How often a request is sent again, with growing pauses.
        connections: The most that are open at a time.
        key_hint: Ends the error message where the key is not set.
        headers: Added to each request.
        body: Fields that are added to each request's body, in place of neutral ones too.

    Raises:
        BakeError: The address is none.
    """

    def __init__(
        self,
        model: str,
        url: str,
        key_name: str,
        *,
        timeout: float,
        max_retries: int,
        connections: int,
        key_hint: str = "",
        headers: Mapping[str, str] | None = None,
        body: Mapping[str, Any] | None = None,
    ) -> None:
        if not url.startswith(("http://", "https://")):
            raise BakeError(
                f"base_url = {url!r}: expected the endpoint's address, http://... or https://..., "
                "up to /v1"
            )
        self.model, self.url, self._key_name = model, url, key_name
        self._timeout, self._max_retries, self._connections = timeout, max_retries, connections
        self._key_hint = key_hint
        self._headers, self._body = dict(headers or {}), dict(body or {})
        self._gate = RateLimitGate()
        self._neutral = NeutralSampling.at(url)
        self._attempts = 0  # HTTP requests, the client's retries among them
        self.requests = 0

    @property
    def retries(self) -> int:
        """How many requests the client has sent again."""
        return max(self._attempts - self.requests, 0)

    @property
    def congestion(self) -> int:
        """How many rate-limited responses and timeouts there were."""
        return self._gate.congestion

    def check_key(self) -> None:
        """Raise BakeError where the key is not set, or cannot be sent."""
        key = os.environ.get(self._key_name, "")
        if not key:
            raise BakeError(f"{self._key_name}: is not set; export it{self._key_hint}")
        if not (key.isascii() and key.isprintable()) or " " in key:
            raise BakeError(
                f"{self._key_name}: contains a character that no key has, such as a space or a "
                "line break"
            )

    @cached_property
    def client(self) -> openai.OpenAI:
        """The client, whose requests pass the gate."""
        limits = httpx2.Limits(
            max_connections=self._connections, max_keepalive_connections=self._connections
        )
        hooks: dict[str, list[Callable[..., Any]]] = {
            "request": [self._count_attempt, self._gate.wait],
            "response": [self._gate.update, _refuse_once],
        }
        http = _HttpClient(
            self._gate,
            timeout=self._timeout,
            transport=BoundedTransport(limits),
            event_hooks=hooks,
        )
        return openai.OpenAI(
            api_key=os.environ[self._key_name],
            base_url=self.url,
            max_retries=self._max_retries,
            timeout=self._timeout,
            http_client=http,
            default_headers=self._headers,
        )

    def chat(
        self, messages: Sequence[Message], temperature: float, max_tokens: int, seed: int
    ) -> str:
        """Request a chat completion.

        Returns:
            The response's body.

        Raises:
            openai.OpenAIError: There is no response.
        """
        request = {
            "model": self.model,
            "messages": [{"role": each.role, "content": each.content} for each in messages],
            "temperature": temperature,
            "max_tokens": max_tokens,
            "seed": seed % SEEDS,
        }

        def post(neutral: Fields) -> str:
            return self._post("/chat/completions", {**request, **neutral, **self._body})

        return self._neutral.send(post, temperature)

    def complete(self, prompt: Sequence[int], body: Mapping[str, Any]) -> str:
        """Request one greedy token after a prompt of token ids, with more fields in the body.

        Returns:
            The response's body.

        Raises:
            openai.OpenAIError: There is no response.
        """
        return self._post(
            "/completions",
            {
                "model": self.model,
                "prompt": list(prompt),
                "max_tokens": 1,
                "temperature": 0,
                **self._body,
                **body,
            },
        )

    def close(self) -> None:
        """Close the connections."""
        if "client" in vars(self):
            self.client.close()
            del self.client

    def explain(self, error: openai.OpenAIError) -> tuple[str, bool]:
        """The error in plain words, and whether every other request would fail, too."""
        reason = excerpt(reason_of(error))
        if self._gate.longest > LONGEST:
            return f"{self.url}: asks to wait {self._gate.longest:g} seconds: {reason}", True
        if isinstance(error, openai.AuthenticationError):
            return f"{self._key_name}: {self.url} refuses it: {reason}", True
        if isinstance(error, openai.APIStatusError) and error.status_code == 402:
            return f"{self.url}: is out of credit: {reason}; add some", True
        if getattr(error, "code", None) == "insufficient_quota":
            return f"{self.url}: the quota is used up: {reason}; raise it", True
        if isinstance(error, openai.PermissionDeniedError):
            return f"{self.url}: permission denied: {reason}", True
        if isinstance(error, openai.NotFoundError):
            return self._not_found(error, reason), True
        if isinstance(error, openai.APITimeoutError):
            return f"{self.url}: no response in {self._timeout:g} seconds", False
        if isinstance(error, openai.APIConnectionError):
            reason = excerpt(connection_reason(error))
            return f"{self.url}: cannot be reached: {reason}", is_lasting(error)
        return f"{self.url}: {reason}", False

    def _not_found(self, error: openai.NotFoundError, reason: str) -> str:
        """Whether the model or the address is not found, by what the body says."""
        words = reason.casefold()
        if "model" in words or self.model.casefold() in words:
            return f"{self.url}: has no model {self.model!r}: {reason}; set another"
        path = error.request.url.path
        problem = f"{self.url}: has no {path}: {reason}"
        versioned = f"{self.url.rstrip('/')}/v1"
        if not self.url.rstrip("/").endswith("/v1") and self._answers(versioned):
            return f"{problem}; {versioned} answers: set base_url to it"
        return f"{problem}; set base_url to the address up to /v1"

    def _answers(self, url: str) -> bool:
        """Whether there is an API at another address, which its list of models shows."""
        client = self.client.with_options(base_url=url, max_retries=0, timeout=PROBE_TIMEOUT)
        try:
            client.get("/models", cast_to=httpx2.Response)
        except openai.APIStatusError as error:
            return error.status_code != 404
        except openai.OpenAIError:
            return False
        return True

    def _post(self, path: str, body: Mapping[str, Any]) -> str:
        self.requests += 1
        # As a plain body: the client's typed call takes twice as long.
        return self.client.post(path, body=body, cast_to=httpx2.Response).text

    def _count_attempt(self, request: httpx2.Request) -> None:
        self._attempts += 1


def _refuse_once(response: httpx2.Response) -> None:
    """Keep the openai client from repeating a request that will always be refused."""
    if response.status_code == 500:
        response.read()
        if is_refusal(response.status_code, response.text):
            response.headers["x-should-retry"] = "false"


class _HttpClient(httpx2.Client):
    """Lets an error pass the openai client's retries where they are of no use.

    A server that was reached before may be restarting, so its refused port is tried again.
    """

    def __init__(self, gate: RateLimitGate, **options: Any) -> None:
        super().__init__(**options)
        self._gate, self._reached = gate, False

    def send(self, request: httpx2.Request, **options: Any) -> httpx2.Response:
        try:
            response = super().send(request, **options)
        except httpx2.ConnectError as error:
            if not self._reached and is_lasting(error):
                raise openai.APIConnectionError(request=request) from error
            raise
        except httpx2.TimeoutException:
            self._gate.congestion += 1
            raise
        self._reached = True
        return response
