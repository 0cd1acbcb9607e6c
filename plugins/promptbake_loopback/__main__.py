"""The server as a process: prints its URL once it answers, serves until it is told to end."""

from __future__ import annotations

import argparse
import os
import signal
from pathlib import Path
from threading import Event, Thread

from promptbake_tinker.loopback.server import Loopback


def main() -> None:
    """Serve until Ctrl-C or SIGTERM."""
    parser = argparse.ArgumentParser(prog="python -m promptbake_tinker.loopback")
    parser.add_argument("--model", default="tiny", help="tiny, or a Hugging Face folder")
    parser.add_argument("--port", type=int, default=0, help="0 is any free one")
    parser.add_argument("--state", type=Path, required=True, help="folder of checkpoints")
    parser.add_argument("--alpha", type=float, default=32, help="LoRAs are scaled by alpha / rank")
    parser.add_argument(
        "--exit-with-parent", action="store_true", help="end when standard input does"
    )
    given = parser.parse_args()

    import torch

    torch.set_num_threads(1)  # a tiny model's steps take seconds on several
    end = Event()
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, lambda *_: end.set())
    if given.exit_with_parent:
        Thread(target=_wait_for_parent, args=(end,), daemon=True).start()
    with Loopback(given.model, state=given.state, alpha=given.alpha, port=given.port) as server:
        print(server.url, flush=True)  # noqa: T201
        end.wait()


def _wait_for_parent(end: Event) -> None:
    while os.read(0, 4096):  # sys.stdin's lock would be held at the interpreter's end
        pass
    end.set()


if __name__ == "__main__":
    main()
