"""A run's data stage on the provider `openai` or `openrouter`, against an endpoint that counts."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from command import Process, Result, promptbake
from run_folder import ids, read_lines, settings

from promptbake_loopback.openai import ChatEndpoint

KEY = "sk-test-8d1f4e6b"
HELD_OUT, TEMPERATURES, IN_FLIGHT = 4, (0.5, 0.7, 0.9, 1.0), 20
WANTED = 200
QUERIES = HELD_OUT + (WANTED - HELD_OUT) // len(TEMPERATURES)
RUN = Path("runs/pirate")
PRICES = "prices={prompt=0.15, completion=0.6}"  # the endpoint's own, by the million


def arguments(url: str, *more: str, provider: str = "openai") -> list[str]:
    """The command line; what does not name a section is an option of the provider."""
    options = f"options.data_providers.{provider}."
    values = [
        "data.queries=queries.txt",
        f"data.provider={provider}",
        f"data.temperatures={list(TEMPERATURES)}",
        f"data.held_out={HELD_OUT}",
        "data.max_tokens=32",
        f"{options}model=tiny-chat",
        f"{options}base_url={url}",
        f"{options}same_model=true",
        *(
            value
            if value.partition("=")[0].count(".") or value.startswith("seed=")
            else options + value
            for value in more
        ),
    ]
    return ["data", "pirate.md", "--profile", "mock", *settings(*values)]


def ask(endpoint: ChatEndpoint, *more: str, provider: str = "openai") -> Result:
    return promptbake(*arguments(endpoint.url, *more, provider=provider))


def finish(endpoint: ChatEndpoint, *more: str, provider: str = "openai") -> str:
    """Run it, which must end well; what it said."""
    result = ask(endpoint, *more, provider=provider)
    assert result.code == 0, result.err
    return result.err


def start(endpoint: ChatEndpoint, *more: str) -> Process:
    return Process(Path("log"), *arguments(endpoint.url, *more))


def all_arrived(wanted: int = WANTED) -> None:
    assert len(ids(RUN)) == len(set(ids(RUN))) == wanted


def stored() -> int:
    """Whole lines so far."""
    files = [RUN / name for name in ("data.jsonl", "held_out.jsonl", "rejected.jsonl")]
    return sum(file.read_bytes().count(b"\n") for file in files if file.exists())


def conversations() -> list[dict[str, Any]]:
    return [*read_lines(RUN / "data.jsonl"), *read_lines(RUN / "held_out.jsonl")]


def rejections() -> dict[str, str]:
    return {line["id"]: line["reason"] for line in read_lines(RUN / "rejected.jsonl")}


def holders(text: str) -> list[Path]:
    """The files below the working folder that hold a text; the prompt's own aside."""
    return [
        path
        for path in Path.cwd().rglob("*")
        if path.is_file() and path.name != "pirate.md" and text.encode() in path.read_bytes()
    ]
