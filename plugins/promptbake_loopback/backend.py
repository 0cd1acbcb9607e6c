"""The backend `tinker_local`: that of `tinker`, on a server of its own."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

from filelock import FileLock

from promptbake import Backend, atomic_folder, cache_folder
from promptbake_loopback.child import ChildServer
from promptbake_loopback.tinker import KEY
from promptbake_tinker import Connection, LatencyModel, Prices, Settings, TinkerBackend

NAME = "tinker_local"
TINY = "tiny"
FREE = Prices(0.0, 0.0, 0.0, source="a server on this machine bills nothing")
# One call after the other on a CPU, so that many at a time take as long as they are many.
TINY_LATENCY = LatencyModel(0.06, 0.5, 0.08, 0.05)
UNKNOWN_LATENCY = LatencyModel(None, None, None)


def make_backend(**options: Any) -> Backend:
    """A backend with options of `tinker`'s, whose models are each served by a process."""
    return TinkerBackend(Settings(**options, key=f"options.backends.{NAME}"), NAME, connect)


def connect(name: str, _: Settings) -> Connection:
    """Start a server of the model `tiny`, or of a Hugging Face folder."""
    os.environ["TINKER_TELEMETRY"] = "0"  # there is nobody to send it to
    folder = _save_tiny() if name == TINY else Path(name)
    state = cache_folder() / "loopback" / "state"
    state.mkdir(parents=True, exist_ok=True)
    # It starts while this process imports what it needs.
    server = ChildServer(
        "tinker", "--model", str(folder), "--state", str(state), subject=str(folder)
    )
    return Connection(
        served=str(folder),
        url=lambda: server.url,
        key=lambda: KEY,
        prices=FREE,
        latency=TINY_LATENCY if name == TINY else UNKNOWN_LATENCY,
        check_alive=server.check_alive,
    )


def _save_tiny() -> Path:
    import transformers

    from promptbake.testing import save_tiny

    target = cache_folder() / "loopback" / TINY
    target.parent.mkdir(parents=True, exist_ok=True)
    with FileLock(target.with_suffix(".lock")):  # another run may begin at the same time
        if not target.exists():
            transformers.logging.disable_progress_bar()
            with atomic_folder(target) as new:
                save_tiny(new)
    return target
