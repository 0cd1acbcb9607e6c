"""The kinds of faults of a Tinker service.

Their `on` names an endpoint by the last part of its path (`asample`, `optim_step`, `save_weights`,
`retrieve_future`, ...; `forward` and `forward_backward` share a path and are told apart), or `any`:
all but heartbeats and telemetry.

- 402, 429 (with Retry-After: `seconds`), 500, 502, 503: the status, and nothing is done;
- dropped_early: the connection closes, and nothing is done; dropped: it closes without a response
  after the request has been served;
- garbage: status 200 with a page of HTML, and nothing is done;
- slow: the response comes `seconds` late;
- failed, failed_user: the operation is accepted and fails, with category server or user;
- try_again: retrieve_future says so once more (`on` may name the operation, too);
- short: a sample's prompt_logprobs and topk_prompt_logprobs lack their last position;
- no_topk, no_alt: a sample comes without topk_prompt_logprobs, without prompt_alt_tokens;
- bounded_ids: a sample of a prompt whose tokens times the distinct ids in target_prompt_logprobs
  are more than 7,000 is refused;
- bounded_columns: forward and forward_backward with more than 20 columns fail, with category user;
- gone: retrieve_future answers 410 (`on` may name the operation, too), which has been executed;
- no_logprobs: forward and forward_backward return none;
- no_k: forward and forward_backward look at column 0 of (N, K) targets only.
"""

from __future__ import annotations

from starlette.responses import HTMLResponse, Response

from promptbake_loopback.faults import Fault
from promptbake_loopback.responses import HangUp, json_response

STATUSES = frozenset({"402", "429", "500", "502", "503"})
EARLY = STATUSES | {"dropped_early", "garbage"}  # instead of what was asked for
LATE = frozenset({"slow", "dropped"})  # the request is served; its response suffers
FAILING = frozenset({"failed", "failed_user"})
INCOMPLETE = frozenset({"short", "no_k", "no_alt", "no_topk", "no_logprobs", "bounded_columns"})
POLLING = frozenset({"try_again", "gone"})
BOUNDING = frozenset({"bounded_ids"})
MAX_IDS, MAX_COLUMNS = 7_000, 20
KINDS = EARLY | LATE | FAILING | INCOMPLETE | POLLING | BOUNDING
BACKGROUND = frozenset({"session_heartbeat", "telemetry"})
SECONDS = 0.1  # of a delay, by default
PAGE = "<!doctype html><title>Bad gateway</title><p>Come back later."


def seconds_of(fault: Fault) -> float:
    """The length of its delay."""
    return SECONDS if fault.seconds is None else fault.seconds


def early_response(fault: Fault) -> Response:
    """The response of a server that does nothing."""
    if fault.kind == "dropped_early":
        return HangUp()
    if fault.kind == "garbage":
        return HTMLResponse(PAGE)
    headers = {"Retry-After": str(seconds_of(fault))} if fault.kind == "429" else None
    return json_response({"detail": f"ordered: {fault.kind}"}, int(fault.kind), headers)
