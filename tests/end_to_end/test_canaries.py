"""An endpoint that sends the key and the prompt back: no file and no printed line has them."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest
from command import promptbake
from endpoint_run import RUN, arguments, holders
from run_folder import PROMPT
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import BaseRoute, Route

from promptbake_loopback.errors import HttpError
from promptbake_loopback.faults import FaultQueue
from promptbake_loopback.server import LoopbackServer

CANARY = "sk-canary-2b9d51e07c4f"
FAR = "x" * 190  # so that a message that is cut ends within the key
Shape = Callable[[str, str], Response]


def completion(content: str = "Arr, the sea.", **fields: Any) -> Response:
    choice = {"message": {"role": "assistant", "content": content}, "finish_reason": "stop"}
    usage = {"prompt_tokens": 1, "completion_tokens": 1}
    return Response(json.dumps({"id": "1", "choices": [choice], "usage": usage, **fields}))


def error(status: int, body: Any) -> Response:
    return Response(body if isinstance(body, str) else json.dumps(body), status)


SHAPES: dict[str, Shape] = {  # of an answer, from the Authorization header and the prompt
    "message": lambda key, prompt: error(400, {"error": {"message": f"{key} {prompt}"}}),
    "message, cut": lambda key, prompt: error(401, {"error": {"message": FAR + key}}),
    "detail": lambda key, prompt: error(400, {"detail": f"{key} {prompt}"}),
    "plain": lambda key, prompt: error(403, f"{FAR} {key}"),
    "not found": lambda key, prompt: error(404, {"message": key, "error": prompt}),
    "redirect": lambda key, prompt: Response("", 307, {"Location": f"/v1/{key[7:]}"}),
    "retry": lambda key, prompt: Response(key, 429, {"Retry-After": key}),
    "text": lambda key, prompt: Response(f"{'y' * 70}{key[7:]} {prompt}"),
    "list": lambda key, prompt: Response(json.dumps([key, prompt])),
    "no choices": lambda key, prompt: Response(json.dumps({"error": {"m": key, "p": prompt}})),
    "usage": lambda key, prompt: completion(usage={"prompt_tokens": key, "cost": prompt}),
    "answer": lambda key, prompt: completion(f"Arr, {key[7:]}"),
    "answer, prompt": lambda key, prompt: completion(f"I was told: {prompt}"),
    "id": lambda key, prompt: completion(id=key, provider=prompt),
    "id, half": lambda key, prompt: completion(id=prompt[: len(prompt) // 2], provider=key[7:]),
}


class Mirror(LoopbackServer):
    """Answers every request with one shape."""

    meter = None

    def __init__(self, shape: Shape) -> None:
        super().__init__(FaultQueue(()), 0)
        self._shape = shape

    def routes(self) -> Sequence[BaseRoute]:
        return [Route("/{path:path}", self._answer, methods=["GET", "POST"])]

    def error_body(self, error: HttpError) -> Any:
        return {"detail": str(error)}

    async def _answer(self, request: Request) -> Response:
        body = json.loads(await request.body() or b"{}")
        messages = body.get("messages") or [{"content": ""}]
        return self._shape(request.headers["authorization"], messages[0]["content"])


def windows(text: str, size: int) -> Iterator[str]:
    return (text[start : start + size] for start in range(len(text) - size + 1))


@pytest.mark.usefixtures("prompt", "endpoint_inputs")
@pytest.mark.parametrize("shape", SHAPES.values(), ids=SHAPES)
def test_a_mirror_leaves_no_trace(
    shape: Shape, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("OPENAI_API_KEY", CANARY)
    (tmp_path / "queries.txt").write_text("".join(f"What is {n}?\n" for n in range(6)))
    few = ("max_retries=0", "data.held_out=2", "data.temperatures=[1.0]", "concurrency=2")
    with Mirror(shape) as mirror:
        result = promptbake(*arguments(f"{mirror.origin}/v1", *few))
    printed = result.out + result.err
    assert result.code in (0, 2), printed
    assert "Traceback" not in printed
    for part in windows(CANARY, 10):
        assert part not in printed
        assert not holders(part)
    stored = [path for path in RUN.rglob("*.json*") if path.is_file()]
    for path in stored:
        told = {json.dumps(part)[1:-1] for part in windows(PROMPT, 24)}
        assert not [part for part in told if part in path.read_text("utf-8")], path


@pytest.mark.parametrize(
    "value", [f"http://me:{CANARY}@127.0.0.1:9/v1", f"http://h/?token={CANARY}"]
)
@pytest.mark.parametrize("stage", ["data", "plan", "config"])
def test_a_password_in_a_setting_is_refused(stage: str, value: str, prompt: Path) -> None:
    result = promptbake(stage, prompt, "--set", f"options.data_providers.openai.base_url={value}")
    assert "holds a key or a password, and settings are recorded" in result.complaint
    assert CANARY not in result.out + result.err
    assert not holders(CANARY)


@pytest.mark.usefixtures("prompt", "endpoint_inputs")
def test_a_password_in_the_environments_address_is_not_shown(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("OPENAI_BASE_URL", f"http://me:{CANARY}@127.0.0.1:9/v1")
    given = arguments("unused", "max_retries=0")
    at = next(n for n, each in enumerate(given) if "base_url=" in each)
    result = promptbake(*given[: at - 1], *given[at + 1 :])
    assert "http://***@127.0.0.1:9/v1: cannot be reached" in result.complaint
    assert CANARY not in result.out + result.err
    assert not holders(CANARY)


def test_a_page_in_a_browser_cannot_use_the_fake_services() -> None:
    import httpx2

    with Mirror(SHAPES["answer"]) as mirror:
        for headers, status in [
            ({}, 200),
            ({"Origin": mirror.origin}, 200),
            ({"Origin": "https://example.com"}, 403),
            ({"Host": "rebound.example.com"}, 400),
        ]:
            sent = {"Authorization": "Bearer 1", **headers}
            assert httpx2.get(f"{mirror.origin}/v1/x", headers=sent).status_code == status
