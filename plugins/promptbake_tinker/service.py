"""One connection to a Tinker service: its clients, waits with a deadline, clear errors."""

from __future__ import annotations

import atexit
import logging
import os
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from functools import cached_property
from typing import Any, Generic, Literal, TypeVar

import tinker
from tinker.lib.retryable_exception import RetryableException

from promptbake import BakeError, excerpt, gather, run_in_thread
from promptbake_tinker.settings import Settings

T = TypeVar("T")
PREFIXES = ("tml-", "eyJ")  # of a key
CONNECT_SECONDS = 45.0
ATTEMPTS = 3  # at a call that failed at the service, and was not billed
CLOSE_SECONDS = 5.0
UNBILLED = (tinker.RequestFailedError, tinker.APIStatusError)
RESUME = "run the same command to resume"


class RefusalError(BakeError):
    """The service refuses a request as wrong: sent again, it would be refused again."""


OPEN: set[Service] = set()  # sessions that the end of the process closes


@atexit.register
def close_all() -> None:
    """Close every session that is still open, all at a time: some services may be gone."""
    until = time.monotonic() + CLOSE_SECONDS
    for closing in [run_in_thread(service.close) for service in list(OPEN)]:
        with suppress(TimeoutError):
            closing.result(timeout=max(until - time.monotonic(), 0.0))


class Service:
    """A session with the service at `url` (None for the hosted one), from the first client on.

    Attributes:
        outcome: How the session ends.
    """

    def __init__(
        self,
        url: str | None,
        key: str | None,
        settings: Settings,
        alive: Callable[[], None] = lambda: None,
    ) -> None:
        self.url = url
        self.deadline, self.in_flight = settings.deadline, settings.calls_in_flight
        self._options = settings.key
        self._alive = alive
        self.key = key
        self._last_warning = _LastWarning()
        self.outcome: Literal["success", "errored", "interrupted"] = "success"
        OPEN.add(self)

    def create(self, make: Callable[[tinker.ServiceClient], Any], what: str) -> Any:
        """A client for sampling or for training, from what `make` calls; opens the session."""
        return self.wait(self._connected(lambda: make(self._client)), what)

    def close(self) -> None:
        """Tell the service that the session is over, and how it ended."""
        OPEN.discard(self)
        if "_client" in vars(self):
            with suppress(Exception):  # the session times out otherwise
                self._client.close(self.outcome).result(timeout=CLOSE_SECONDS)

    @cached_property
    def _client(self) -> tinker.ServiceClient:
        return tinker.ServiceClient(base_url=self.url, api_key=self.key)

    @property
    def where(self) -> str:
        """The service, in a message."""
        return self.url or "Tinker"

    def supported_models(self) -> dict[str | None, tinker.types.SupportedModel]:
        """The models that the service offers, by name."""
        rest = self._connected(lambda: tinker.RestClient(base_url=self.url, api_key=self.key))
        capabilities = self.wait(rest.get_server_capabilities(), "the list of models")
        return {model.model_name: model for model in capabilities.supported_models}

    def wait(self, future: Any, what: str) -> Any:
        """The result of an SDK future. Raises BakeError if it failed or took too long."""
        results = gather(
            1,
            lambda _: future.future(),
            lambda _, value: value,
            lambda _, error: self.explained(error, what),
            lambda _: self._late(what),
            limit=1,
            deadline=self.deadline,
            alive=self._alive,
        )
        return next(value for _, value in results)

    def gather(
        self,
        calls: int,
        submit: Callable[[int], Any],
        read: Callable[[int, Any], T],
        what: Callable[[int], str],
        failed: Callable[[int], None],
    ) -> Iterator[tuple[int, T]]:
        """Send `calls` calls, many in flight at a time; yield what `read` returns, as they arrive.

        A call that failed at the service is not billed, and is retried a few times. If it still
        fails, or its response cannot be read, the calls in flight are waited for first, so that
        what was paid for is kept; then the error is raised. `failed` is called at each failure
        that is certainly not billed.
        """
        attempts = dict.fromkeys(range(calls), 0)

        def error_of(index: int, problem: BaseException) -> Exception | None:
            attempts[index] += 1
            if isinstance(problem, UNBILLED):
                failed(index)
            if _is_retryable(problem) and attempts[index] < ATTEMPTS:
                return None
            return self.explained(problem, what(index))

        return gather(
            calls,
            lambda index: submit(index).future(),
            read,
            error_of,
            lambda index: self._late(what(index)),
            limit=self.in_flight,
            deadline=self.deadline,
            alive=self._alive,
        )

    def explained(self, error: BaseException, what: str) -> Exception:
        """A BakeError that says what to do; a bug's error stays as it is."""
        if isinstance(error, BakeError):
            return error
        reason = reason_of(error)
        if isinstance(error, RetryableException):
            return BakeError(
                f"{what}: {self.where} no longer has its result (status 410), so it may have been "
                f"billed; {RESUME}"
            )
        if isinstance(error, tinker.AuthenticationError):
            return BakeError(f"TINKER_API_KEY: {self.where} refuses it: {reason}")
        if isinstance(error, tinker.PermissionDeniedError):
            return BakeError(f"{what}: {self.where} does not permit it: {reason}")
        if isinstance(error, tinker.NotFoundError) or "no such checkpoint" in reason:
            return BakeError(f"{what}: {self.where} has nothing by that name: {reason}")
        if is_refusal(error):
            return RefusalError(
                f"{what}: {self.where} refuses it: {reason}; the same request would be refused "
                "again, so change what it names; what was paid for is kept"
            )
        if isinstance(error, KeyError) and error.args == ("logprobs",):
            return no_logprobs(what)
        if getattr(error, "status_code", None) == 402:
            return BakeError(f"{what}: {self.where} requires payment: {reason}; then {RESUME}")
        if isinstance(error, tinker.APIConnectionError):
            return BakeError(f"{what}: {self.where} does not answer: {reason}; {RESUME}")
        if isinstance(error, tinker.TinkerError) or _is_service_error(error):
            return BakeError(f"{what}: {self.where} failed: {reason}; {RESUME}")
        if isinstance(error, Exception):
            return error
        return BakeError(f"{what}: {reason}")

    def _late(self, what: str) -> BakeError:
        warning = f" ({self._last_warning.text})" if self._last_warning.text else ""
        return BakeError(
            f"{what}: no answer from {self.where} in {self.deadline:g} seconds{warning}; {RESUME}, "
            f"or raise {self._options}.deadline"
        )

    def _connected(self, connect: Callable[[], T]) -> T:
        """Connect, with a deadline: the SDK itself retries for minutes."""
        try:
            return run_in_thread(connect).result(timeout=min(self.deadline, CONNECT_SECONDS))
        except TimeoutError:
            raise BakeError(
                f"{self.where}: does not answer; check the network, and TINKER_BASE_URL or "
                f"{self._options}.base_url"
            ) from None
        except Exception as error:
            raise self.explained(error, "connecting") from error


class Waiting(Generic[T]):
    """A result in flight: the core's Pending."""

    def __init__(self, service: Service, future: Any, what: str, then: Callable[[Any], T]) -> None:
        self._service, self._future, self._what, self._then = service, future, what, then
        self._value: list[T] = []

    def result(self) -> T:
        """Wait for it, with the service's deadline."""
        if not self._value:
            self._value.append(self._then(self._service.wait(self._future, self._what)))
        return self._value[0]


def api_key() -> str | None:
    """TINKER_API_KEY, or None where the SDK has other credentials. Raises BakeError."""
    key = os.environ.get("TINKER_API_KEY")
    if key is not None and not key.startswith(PREFIXES):
        raise BakeError(
            "TINKER_API_KEY: not a Tinker key; one begins with "
            f"{' or '.join(PREFIXES)} (its console shows it)"
        )
    stored = os.path.expanduser("~/.tinker/credentials.json")
    if key is None and not os.environ.get("TINKER_CREDENTIAL_CMD") and not os.path.exists(stored):
        raise BakeError(
            "TINKER_API_KEY: is not set; set it, or use --profile tinker-local "
            "(PROFILE=tinker-local), which runs on this machine without a key"
        )
    return key


class _LastWarning(logging.Handler):
    """Keeps the SDK's last warning, for the message of a wait that took too long."""

    def __init__(self) -> None:
        super().__init__(logging.WARNING)
        self.text = ""
        logger = logging.getLogger("tinker")
        logger.addHandler(self)
        logger.propagate = False

    def emit(self, record: logging.LogRecord) -> None:
        """Keep the message; one about a heartbeat, of whichever session, hides no other."""
        text = record.getMessage()
        if not self.text or "heartbeat" not in text:
            self.text = text


def no_logprobs(what: str) -> BakeError:
    """The error for a training output without log-probabilities."""
    return BakeError(
        f"{what}: the service returns no log-probabilities of the targets; a loss that is linear "
        "in them, such as train.loss=forward_kl with train.tail=sampled, needs none"
    )


def _is_retryable(error: BaseException) -> bool:
    category = tinker.types.RequestErrorCategory
    return isinstance(error, tinker.RequestFailedError) and error.category != category.User


def is_refusal(error: BaseException) -> bool:
    """Whether the service says that the request itself is wrong."""
    if isinstance(error, tinker.BadRequestError | tinker.UnprocessableEntityError):
        return True
    user = tinker.types.RequestErrorCategory.User
    return isinstance(error, tinker.RequestFailedError) and error.category == user


def _is_service_error(error: BaseException) -> bool:
    """Whether the SDK raised it, as a plain error, for a response that it cannot use."""
    text = str(error)
    return isinstance(error, ValueError | RuntimeError) and (
        text.startswith(("Error retrieving result", "A previous request failed", "Proto "))
        or "may predate" in text
    )


def reason_of(error: BaseException) -> str:
    """An error's message, without the SDK's request ids."""
    text = excerpt(str(error), 1000)
    for ending in (" for self.request_id", " and expected type"):
        text = text.partition(ending)[0]
    return text.removeprefix("Request failed: ")[:300] or type(error).__name__
