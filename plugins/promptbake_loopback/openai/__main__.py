"""The endpoint as a process: prints its URL once it answers, serves until it is told to end."""

from __future__ import annotations

import argparse
import os
import signal
from threading import Event, Thread

from promptbake_openai.loopback.server import KEY, Endpoint


def main() -> None:
    """Serve until Ctrl-C or SIGTERM."""
    parser = argparse.ArgumentParser(prog="python -m promptbake_openai.loopback")
    parser.add_argument("--model", action="append", help="a model's name; may be repeated")
    parser.add_argument("--key", default=KEY)
    parser.add_argument("--port", type=int, default=0, help="0 is any free one")
    parser.add_argument("--latency", type=float, default=0.0, help="seconds")
    parser.add_argument("--faults", type=float, default=0.0, help="share of requests, 0 to 1")
    parser.add_argument("--seed", type=int, default=0, help="of the faults")
    parser.add_argument(
        "--exit-with-parent", action="store_true", help="end when standard input does"
    )
    given = parser.parse_args()

    end = Event()
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, lambda *_: end.set())
    if given.exit_with_parent:
        Thread(target=_wait_for_parent, args=(end,), daemon=True).start()
    with Endpoint(
        given.latency,
        given.seed,
        given.faults,
        key=given.key,
        models=given.model or ("tiny-chat",),
        port=given.port,
    ) as endpoint:
        print(endpoint.url, flush=True)  # noqa: T201
        end.wait()


def _wait_for_parent(end: Event) -> None:
    while os.read(0, 4096):  # sys.stdin's lock would be held at the interpreter's end
        pass
    end.set()


if __name__ == "__main__":
    main()
