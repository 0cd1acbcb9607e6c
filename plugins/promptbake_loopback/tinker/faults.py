"""What can go wrong with a service, to be ordered for the requests that it shall happen to."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass
from threading import Lock

STATUSES = {"402": 402, "429": 429, "500": 500, "502": 502, "503": 503}
EARLY = frozenset({*STATUSES, "dropped_early", "garbage"})  # instead of what was asked for
LATE = frozenset({"slow", "dropped"})  # the request is served; its answer suffers
FAILING = frozenset({"failed", "failed_user"})
SPOILING = frozenset({"short", "no_k", "no_alt", "no_topk"})
POLLING = frozenset({"try_again"})
KINDS = EARLY | LATE | FAILING | SPOILING | POLLING
BACKGROUND = frozenset({"session_heartbeat", "telemetry"})


@dataclass(frozen=True)
class Fault:
    """Something that goes wrong `times` times, once `after` matching requests have passed.

    `on` names an endpoint by the last part of its path (`asample`, `optim_step`, `save_weights`,
    `retrieve_future`, ...; `forward` and `forward_backward` share a path and are told apart), or
    `any`: all but heartbeats and telemetry. The kinds:

    - 402, 429 (with Retry-After: `seconds`), 500, 502, 503: the status, and nothing is done;
    - dropped_early: the connection closes, and nothing is done; dropped: it closes without an
      answer after the request has been served;
    - garbage: status 200 with a page of HTML, and nothing is done;
    - slow: the answer comes `seconds` late;
    - failed, failed_user: the operation is accepted and fails, with category server or user;
    - try_again: retrieve_future says so once more (`on` may name the operation, too);
    - short: a sample's prompt_logprobs and topk_prompt_logprobs lack their last position;
    - no_topk, no_alt: a sample comes without topk_prompt_logprobs, without prompt_alt_tokens;
    - no_k: forward and forward_backward look at column 0 of (N, K) targets only.
    """

    kind: str
    on: str
    times: int = 1
    after: int = 0
    seconds: float = 0.1

    def __post_init__(self) -> None:
        if self.kind not in KINDS:
            raise ValueError(f"no fault is called {self.kind!r}; there are {sorted(KINDS)}")
        if self.times < 1 or self.after < 0 or self.seconds < 0:
            raise ValueError(f"times is at least 1, after and seconds at least 0, found {self}")


class _Ordered:
    def __init__(self, fault: Fault) -> None:
        self.fault = fault
        self.after = fault.after
        self.times = fault.times


class Faults:
    """The faults that are still to happen."""

    def __init__(self) -> None:
        self._lock = Lock()
        self._ordered: list[_Ordered] = []

    def inject(self, fault: Fault) -> None:
        """Order one more."""
        with self._lock:
            self._ordered.append(_Ordered(fault))

    def take(self, kinds: Collection[str], *names: str) -> Fault | None:
        """The fault of one of these kinds that happens to a request with these names, if any.

        A request passes by every fault that it matches, until one happens to it.
        """
        with self._lock:
            for ordered in self._ordered:
                fault = ordered.fault
                if fault.kind not in kinds or not _matches(fault.on, names):
                    continue
                if ordered.after:
                    ordered.after -= 1
                    continue
                ordered.times -= 1
                if not ordered.times:
                    self._ordered.remove(ordered)
                return fault
        return None


def _matches(on: str, names: tuple[str, ...]) -> bool:
    return on in names or (on == "any" and BACKGROUND.isdisjoint(names))
