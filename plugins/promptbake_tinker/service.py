"""One connection to a Tinker service: its clients, the waits on it, its errors in plain words."""

from __future__ import annotations

import atexit
import logging
import os
from collections.abc import Callable, Iterator
from contextlib import suppress
from typing import Any, Generic, TypeVar

import tinker

from promptbake import BakeError, gather, run_in_thread
from promptbake_tinker.settings import Settings

T = TypeVar("T")
PREFIXES = ("tml-", "eyJ")  # of what the SDK takes for a key
CONNECT_SECONDS = 45.0
ATTEMPTS = 3  # at a call that the service failed, and did not bill
CLOSE_SECONDS = 5.0
UNBILLED = (tinker.RequestFailedError, tinker.APIStatusError)
GOES_ON = "the same command goes on from here"


class Service:
    """A session with the service at `url` (None for the hosted one)."""

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
        self._last_word = _LastWord()
        self.client: tinker.ServiceClient = self._connected(self._open)
        atexit.register(self.close)

    def close(self) -> None:
        """Tell the service that the session is over."""
        with suppress(Exception):  # it would find out by itself
            self.client.close("success").result(timeout=CLOSE_SECONDS)

    @property
    def where(self) -> str:
        """The service, in a message."""
        return self.url or "Tinker"

    def offered(self) -> dict[str | None, tinker.types.SupportedModel]:
        """The models that the service offers, by name."""
        rest = self._connected(lambda: tinker.RestClient(base_url=self.url, api_key=self.key))
        found = self.wait(rest.get_server_capabilities(), "the list of models")
        return {model.model_name: model for model in found.supported_models}

    def wait(self, future: Any, what: str) -> Any:
        """The result of an SDK future. Raises BakeError where it failed or took too long."""
        found = gather(
            1,
            lambda _: future.future(),
            lambda _, value: value,
            lambda _, error: self.explained(error, what),
            lambda _: self._late(what),
            limit=1,
            deadline=self.deadline,
            alive=self._alive,
        )
        return next(value for _, value in found)

    def gather(
        self,
        calls: int,
        submit: Callable[[int], Any],
        read: Callable[[int, Any], T],
        what: Callable[[int], str],
        failed: Callable[[int], None],
    ) -> Iterator[tuple[int, T]]:
        """What is read from the answers to `calls` calls, as they come, many under way at a time.

        A call that the service failed is made again, a few times: it was not billed. Where one
        fails for good, or its answer cannot be read, the others under way are waited for first,
        so that what was paid for is kept; then the error goes on. `failed` is told of each
        failure that is surely not billed.
        """
        attempts = dict.fromkeys(range(calls), 0)

        def ends(index: int, problem: BaseException) -> Exception | None:
            attempts[index] += 1
            if isinstance(problem, UNBILLED):
                failed(index)
            if _not_the_callers_fault(problem) and attempts[index] < ATTEMPTS:
                return None
            return self.explained(problem, what(index))

        return gather(
            calls,
            lambda index: submit(index).future(),
            read,
            ends,
            lambda index: self._late(what(index)),
            limit=self.in_flight,
            deadline=self.deadline,
            alive=self._alive,
        )

    def explained(self, error: BaseException, what: str) -> Exception:
        """The error as a user can mend it, or as it is where nobody but us can."""
        if isinstance(error, BakeError):
            return error
        reason = reason_of(error)
        if isinstance(error, tinker.AuthenticationError):
            return BakeError(f"TINKER_API_KEY: {self.where} refuses it: {reason}")
        if isinstance(error, tinker.BadRequestError | tinker.UnprocessableEntityError):
            return BakeError(f"{what}: {self.where} refuses it: {reason}")
        if isinstance(error, tinker.PermissionDeniedError):
            return BakeError(f"{what}: {self.where} does not permit it: {reason}")
        if isinstance(error, tinker.NotFoundError) or "no such checkpoint" in reason:
            return BakeError(f"{what}: {self.where} knows no such thing: {reason}")
        if getattr(error, "status_code", None) == 402:
            return BakeError(
                f"{what}: {self.where} wants to be paid first: {reason}; then {GOES_ON}"
            )
        if isinstance(error, tinker.APIConnectionError):
            return BakeError(f"{what}: {self.where} does not answer: {reason}; {GOES_ON}")
        if isinstance(error, tinker.TinkerError) or _came_from_the_service(error):
            return BakeError(f"{what}: {self.where} failed: {reason}; {GOES_ON}")
        if isinstance(error, Exception):
            return error
        return BakeError(f"{what}: {reason}")

    def _late(self, what: str) -> BakeError:
        said = f" ({self._last_word.text})" if self._last_word.text else ""
        return BakeError(
            f"{what}: no answer from {self.where} in {self.deadline:g} seconds{said}; {GOES_ON}, "
            f"or give it longer by {self._options}.deadline"
        )

    def _open(self) -> tinker.ServiceClient:
        client = tinker.ServiceClient(base_url=self.url, api_key=self.key)
        client.holder.get_session_id()  # opens the session
        return client

    def _connected(self, connect: Callable[[], T]) -> T:
        """What connecting gives; the SDK itself would go on trying for minutes."""
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
    """A result on its way from the service: the core's Pending."""

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
            "TINKER_API_KEY: is no key of Tinker's; one begins with "
            f"{' or '.join(PREFIXES)} (its console shows it)"
        )
    stored = os.path.expanduser("~/.tinker/credentials.json")
    if key is None and not os.environ.get("TINKER_CREDENTIAL_CMD") and not os.path.exists(stored):
        raise BakeError(
            "TINKER_API_KEY: is not set; export it, or try without one: --profile tinker-local "
            "(PROFILE=tinker-local) runs the same on this machine"
        )
    return key


class _LastWord(logging.Handler):
    """Keeps the SDK's last warning, for the message of a wait that took too long."""

    def __init__(self) -> None:
        super().__init__(logging.WARNING)
        self.text = ""
        logger = logging.getLogger("tinker")
        logger.addHandler(self)
        logger.propagate = False

    def emit(self, record: logging.LogRecord) -> None:
        """Keep it."""
        self.text = record.getMessage()


def _not_the_callers_fault(error: BaseException) -> bool:
    category = tinker.types.RequestErrorCategory
    return isinstance(error, tinker.RequestFailedError) and error.category != category.User


def _came_from_the_service(error: BaseException) -> bool:
    """Whether the SDK raised it, as a plain error, for an answer that it cannot use."""
    text = str(error)
    return isinstance(error, ValueError | RuntimeError) and (
        text.startswith(("Error retrieving result", "A previous request failed", "Proto "))
        or "may predate" in text
    )


def reason_of(error: BaseException) -> str:
    """What an error says, without the SDK's own bookkeeping."""
    text = " ".join(str(error).split())
    for ending in (" for self.request_id", " and expected type"):
        text = text.partition(ending)[0]
    return text.removeprefix("Request failed: ")[:300] or type(error).__name__
