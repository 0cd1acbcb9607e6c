"""What the provider `openai` makes of an endpoint's answers, refusals and speed."""

from __future__ import annotations

import gzip
import json
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from datetime import UTC, datetime, timedelta
from email.utils import format_datetime
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import httpx2
import openai
import pytest
from fake_openai import KEY, ChatEndpoint
from generation_jobs import job, requests
from test_openai_provider import PLAIN, generate

from promptbake import BakeError, Rejection
from promptbake.testing import RecordingBudget
from promptbake_loopback.errors import HttpError
from promptbake_openai import openai_provider
from promptbake_openai.adaptive_limit import AdaptiveLimit
from promptbake_openai.bounded_transport import MAX_BYTES
from promptbake_openai.rate_limit import PAUSE, RateLimitGate, parse_retry_after
from promptbake_openai.reasons import reason_of

pytestmark = pytest.mark.usefixtures("openai_key")
NOW = datetime(2026, 1, 2, 3, 4, 5, tzinfo=UTC)
TOO_MUCH = b" " * (MAX_BYTES + 1)
CUT: dict[str, Any] = {"content": "Well, I", "finish_reason": "length"}
NO_CONTENT: dict[str, Any] = {"content": None, "reasoning": "Hm", "finish_reason": "length"}


@pytest.mark.parametrize(
    ("texts", "turns", "asked", "expected"),
    [
        (["", "<think>a", "Hm."], 1, 3, ("a", "Hm.")),
        ([""], 1, 3, "the response is empty"),
        ([NO_CONTENT, "Hm."], 1, 2, ("a", "Hm.")),
        ([NO_CONTENT], 1, 2, "data.max_tokens cut it before its reasoning ended"),
        ([CUT, "Hm."], 3, 1, ("a", "Well, I")),  # which ends the conversation
        (["Hm.", CUT, "Yes.", "And?", "No."], 2, 5, ("a", "Yes.", "And?", "No.")),
        (["Hm.", CUT, "Hm.", ""], 2, 5, "the response is empty"),
    ],
)
def test_what_is_not_kept_is_requested_again_with_another_seed_and_paid_for(
    texts: list[Any], turns: int, asked: int, expected: str | tuple[str, ...]
) -> None:
    seeds: list[int] = []

    def answer(request: dict[str, Any]) -> Any:
        seeds.append(request["seed"])
        return texts[min(len(seeds), len(texts)) - 1]

    budget = RecordingBudget()
    with ChatEndpoint(key=KEY, answer=answer) as endpoint:
        of_job = {"budget": budget, "turns": turns}
        result = generate(endpoint, requests("a"), of_job)["a@1.0"]
        output_tokens = endpoint.meter.completion_tokens
    assert len(seeds) == asked == len(set(seeds))
    committed = [each.committed for each in budget.reservations]
    assert sum(each.output_tokens for each in committed if each) == output_tokens
    if isinstance(result, Rejection):
        assert result.reason == expected
    else:
        assert tuple(message.content for message in result.messages) == expected
        assert result.complete == (expected[-1] != CUT["content"])


def test_reasoning_alone_stops_the_work_with_what_to_raise() -> None:
    with ChatEndpoint(key=KEY, answer=lambda _: NO_CONTENT) as endpoint:
        with pytest.raises(BakeError, match=r"reasoning alone: data\.max_tokens = 32 .*raise it"):
            generate(endpoint, requests(*"abcdefghijklmnop"))
        assert endpoint.meter.requests <= 2 * (5 + 8)  # with those that were in flight


@pytest.mark.parametrize(
    ("is_refused", "accepted"),
    [
        (lambda body: body.get("top_k") == -1, {"top_p", "top_k", "min_p", "repeat_penalty"}),
        (lambda body: "min_p" in body, {"top_p", "generation_config"}),
        (lambda body: len(body) > 6, {"top_p"}),
        (lambda body: "top_p" in body, set()),
    ],
    ids=["no -1", "transformers", "OpenAI's own", "nothing"],
)
def test_neutral_sampling_is_what_the_endpoint_accepts(
    is_refused: Callable[[dict[str, Any]], bool], accepted: set[str]
) -> None:
    bodies: list[dict[str, Any]] = []

    def answer(request: dict[str, Any]) -> str:
        if is_refused(request):
            raise HttpError(422, "Unexpected fields in the request")
        bodies.append(request)
        return f"Hm, {len(bodies)}."

    with ChatEndpoint(key=KEY, answer=answer) as endpoint:
        wanted = (*requests("a", "b", "c"), *requests("d", temperature=0.0))
        assert len(generate(endpoint, wanted, concurrency=1)) == 4
        assert endpoint.meter.refused["422"] <= 4
    added = [body.keys() - PLAIN - {"repetition_penalty"} for body in bodies]
    assert added == [accepted] * 3 + [set()]  # at temperature 0 nothing is drawn


def test_a_refusal_with_status_500_is_tried_otherwise_at_once() -> None:
    """As llama-cpp-python's server refuses top_k = -1."""

    def answer(request: dict[str, Any]) -> str:
        if request["top_k"] < 0:
            raise HttpError(500, "1 validation error: {'loc': ('body', 'top_k'), 'input': -1}")
        return "Hm."

    with ChatEndpoint(key=KEY, answer=answer) as endpoint:
        assert len(generate(endpoint, requests("a", "b"), concurrency=1)) == 2
        assert endpoint.meter.requests == 3


def test_a_request_that_is_bad_by_itself_is_reported_as_such() -> None:
    def answer(request: dict[str, Any]) -> str:
        raise HttpError(400, "This model's maximum context length is 10 tokens")

    with ChatEndpoint(key=KEY, answer=answer) as endpoint:
        with pytest.raises(BakeError, match="maximum context length is 10"):
            generate(endpoint, requests("a"))
        assert endpoint.meter.requests == 5


@pytest.mark.parametrize(
    ("model", "baked", "same", "refused"),
    [
        ("maker/Tiny-Chat", "tiny-chat", False, False),
        ("tiny-chat", "/models/tiny-chat/", False, False),
        ("tiny-chat", "", False, False),
        ("tiny-chat", "smollm2-135m-instruct", True, False),
        ("tiny-chat", "smollm2-135m-instruct", False, True),
    ],
)
def test_another_model_than_the_baked_one_needs_a_word(
    model: str, baked: str, same: bool, refused: bool
) -> None:
    provider = openai_provider(model=model, base_url="http://127.0.0.1:9/v1", same_model=same)
    if not refused:
        provider.generate(job(requests("a"), model_name=baked))
        return
    message = r"^options\.data_providers\.openai\.model = .*'smollm2.*same_model=true$"
    with pytest.raises(BakeError, match=message):
        provider.generate(job(requests("a"), model_name=baked))


@pytest.mark.parametrize(
    ("base_url", "variable", "problem"),
    [
        ("", "http://127.0.0.1:9/v1", "base_url = ''"),
        ("http://127.0.0.1:9/v1,", None, "base_url = ''"),
        ([], None, r"base_url = \[\]"),
        ("localhost:8000/v1", None, r"expected the endpoint's address, http://"),
        (None, "", "^OPENAI_BASE_URL: is set and empty"),
        (None, " ", "^OPENAI_BASE_URL: is set and empty"),
    ],
)
def test_an_empty_address_is_not_openais(
    base_url: Any, variable: str | None, problem: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("OPENAI_BASE_URL", raising=False)
    if variable is not None:
        monkeypatch.setenv("OPENAI_BASE_URL", variable)
    with pytest.raises(BakeError, match=problem):
        openai_provider(model="m", base_url=base_url)


DETAIL = [{"loc": ["body", "max_tokens"], "msg": "must be at most 5"}, {"msg": "and less"}]


@pytest.mark.parametrize(
    ("body", "reason"),
    [
        ({"error": {"message": "No, \n that is wrong"}}, "No, that is wrong"),
        ({"error": "model is required"}, "model is required"),
        ({"object": "error", "message": "too long"}, "too long"),
        ({"detail": "Not Found"}, "Not Found"),
        ({"detail": DETAIL}, "body.max_tokens: must be at most 5; and less"),
        ({"error": {"code": 7}}, '{"error": {"code": 7}}'),
        ("404 page not found", "404 page not found"),
        ("<html><title>502 Bad Gateway</title>...</html>", "502 Bad Gateway"),
        ("", "Error code: 400"),
    ],
)
def test_the_reason_is_found_wherever_it_stands(body: Any, reason: str) -> None:
    text = body if isinstance(body, str) else json.dumps(body)
    request = httpx2.Request("POST", "http://127.0.0.1/v1/chat/completions")
    response = httpx2.Response(400, text=text, request=request)
    assert reason_of(openai.BadRequestError("Error code: 400", response=response, body=None)) == (
        reason
    )


@pytest.mark.parametrize(
    ("capacity", "most", "congested_from", "ends"),
    [(1, 20, 99, (1, 1)), (4, 20, 99, (4, 8)), (99, 20, 99, (20, 20)), (99, 64, 10, (3, 10))],
    ids=["one at a time", "four at a time", "any number", "rate-limited above 10"],
)
def test_the_limit_is_what_makes_the_endpoint_faster(
    capacity: int, most: int, congested_from: int, ends: tuple[int, int]
) -> None:
    limit, congestion = AdaptiveLimit(most), 0
    for number in range(400):
        in_flight = limit()
        congestion += in_flight >= congested_from
        seconds = max(1.0, in_flight / capacity) * (0.9 + 0.2 * (number % 2))
        limit.record(seconds, 30, congestion)
        assert 1 <= limit() <= most
    assert ends[0] <= limit() <= ends[1]


@pytest.mark.parametrize(
    ("header", "seconds"),
    [
        ("0.5", 0.5),
        ("20", 20.0),
        ("0", 0.0),
        ("-3", 0.0),
        (format_datetime(NOW + timedelta(seconds=7), usegmt=True), 7.0),
        (format_datetime(NOW - timedelta(seconds=7), usegmt=True), 0.0),
        ("Fri, 02 Jan 2026 03:04:15 -0000", 10.0),
        ("Fri, 02 Jan 2026 04:04:15 +0100", 10.0),
        ("", None),
        (None, None),
        ("soon", None),
        ("nan", None),
        ("inf", None),
        ("Fri, 99 Jan 2026 03:04:15 GMT", None),
    ],
)
def test_retry_after_is_seconds_or_a_date(header: str | None, seconds: float | None) -> None:
    assert parse_retry_after(header, NOW) == seconds


@pytest.mark.parametrize(
    ("headers", "body", "reason"),
    [
        (
            {"content-encoding": "gzip"},
            gzip.compress(TOO_MUCH, 1),
            "is larger than 134 MB",
        ),
        ({}, TOO_MUCH, "is larger than 134 MB"),
        ({"content-encoding": "br"}, b"x", "compressed as 'br', which was not asked for"),
        ({":status": "429", "retry-after": "1e300"}, b"", r"asks to wait 1e\+300 seconds"),
    ],
    ids=["bomb", "large", "unknown compression", "endless pause"],
)
def test_an_answer_without_bounds_is_refused_at_once(
    headers: dict[str, str], body: bytes, reason: str
) -> None:
    with one_answer(headers, body) as url:
        provider = openai_provider(model="m", base_url=url, max_retries=3, concurrency=1)
        with pytest.raises(BakeError, match=reason):
            list(provider.generate(job(requests("Hi?"))))


@contextmanager
def one_answer(headers: dict[str, str], body: bytes) -> Iterator[str]:
    """The address of a server that answers every request so."""

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            self.rfile.read(int(self.headers["content-length"]))
            self.send_response(int(headers.get(":status", 200)))
            for name, value in headers.items():
                if name[0] != ":":
                    self.send_header(name, value)
            self.end_headers()
            with suppress(OSError):  # the client has seen enough
                self.wfile.write(body)

        def log_message(self, *_: object) -> None:
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{server.server_address[1]}/v1"
        server.shutdown()


class Clock:
    """Time that passes only in `sleep`."""

    now = 100.0

    def __call__(self) -> float:
        return self.now

    def sleep(self, seconds: float) -> None:
        self.now += seconds


@pytest.mark.parametrize(
    ("responses", "pause"),
    [
        ([(429, "2")], 2.0),
        ([(429, None)], PAUSE),
        ([(429, "soon")], PAUSE),
        ([(503, "3")], 3.0),
        ([(503, None)], 0.0),
        ([(500, "3")], 0.0),
        ([(200, "3")], 0.0),
        ([(429, "5"), (429, "1")], 5.0),
        ([(429, "1e300")], 0.0),
        ([(429, "Fri, 31 Dec 9999 23:59:59 GMT")], 0.0),
    ],
)
def test_a_rate_limited_response_holds_requests_back_for_as_long_as_it_says(
    responses: list[tuple[int, str | None]], pause: float
) -> None:
    clock = Clock()
    gate = RateLimitGate(clock, clock.sleep)
    for status, header in responses:
        headers = {"Retry-After": header} if header else {}
        gate.update(httpx2.Response(status, headers=headers))
    for _ in range(2):
        gate.wait(httpx2.Request("POST", "http://127.0.0.1/"))
    assert clock.now == pytest.approx(100.0 + pause)
