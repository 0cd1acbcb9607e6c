"""A fake server as a process: prints its URL once it answers, serves until it is told to end."""

from __future__ import annotations

import argparse
import os
import signal
from collections.abc import Sequence
from pathlib import Path
from threading import Event, Thread

from promptbake_loopback.openai import KEY, ChatEndpoint
from promptbake_loopback.tinker import TinkerLoopback


def main(arguments: Sequence[str] | None = None) -> None:
    """Serve until Ctrl-C or SIGTERM."""
    options = _parser().parse_args(arguments)
    end = Event()
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, lambda *_: end.set())
    if options.exit_with_parent:
        Thread(target=_wait_for_parent, args=(end,), daemon=True).start()
    with _tinker(options) if options.service == "tinker" else _openai(options) as server:
        print(server.url, flush=True)  # noqa: T201
        end.wait()


def _parser() -> argparse.ArgumentParser:
    shared = argparse.ArgumentParser(add_help=False)
    shared.add_argument("--port", type=int, default=0, help="0 is any free one")
    shared.add_argument(
        "--exit-with-parent", action="store_true", help="end when standard input does"
    )
    parser = argparse.ArgumentParser(prog="python -m promptbake_loopback", description=__doc__)
    services = parser.add_subparsers(dest="service", required=True)
    tinker = services.add_parser("tinker", parents=[shared], help="Tinker's service")
    tinker.add_argument("--model", default="tiny", help="tiny, or a Hugging Face folder")
    tinker.add_argument("--state", type=Path, required=True, help="folder of checkpoints")
    tinker.add_argument("--alpha", type=float, default=32, help="LoRAs are scaled by alpha / rank")
    openai = services.add_parser("openai", parents=[shared], help="a chat endpoint")
    openai.add_argument("--model", action="append", help="a model's name; may be repeated")
    openai.add_argument("--key", default=KEY)
    openai.add_argument("--latency", type=float, default=0.0, help="seconds")
    openai.add_argument("--faults", type=float, default=0.0, help="share of requests, 0 to 1")
    openai.add_argument("--seed", type=int, default=0, help="of the faults")
    return parser


def _tinker(options: argparse.Namespace) -> TinkerLoopback:
    import torch

    torch.set_num_threads(1)  # a tiny model's steps take seconds on several
    return TinkerLoopback(
        options.model, state=options.state, alpha=options.alpha, port=options.port
    )


def _openai(options: argparse.Namespace) -> ChatEndpoint:
    return ChatEndpoint(
        options.latency,
        options.seed,
        options.faults,
        key=options.key,
        models=options.model or ("tiny-chat",),
        port=options.port,
    )


def _wait_for_parent(end: Event) -> None:
    while os.read(0, 4096):  # sys.stdin's lock would be held at the interpreter's end
        pass
    end.set()


if __name__ == "__main__":
    main()
