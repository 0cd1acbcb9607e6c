"""How a base model is reached: its name there, address, key, prices and latency."""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import dataclass

from promptbake_tinker.latency import HOSTED, UNKNOWN, LatencyModel
from promptbake_tinker.prices import Prices, prices_of
from promptbake_tinker.settings import Settings


def _always() -> None:
    """Nothing to check: the service is not a child process of ours."""


@dataclass(frozen=True)
class Connection:
    """One model at one service. `url` and `key` are called when the service is first needed."""

    served: str  # the model's name there, and where its tokenizer is loaded from
    url: Callable[[], str | None]  # None is the hosted service
    key: Callable[[], str | None]  # None where the SDK has other credentials
    prices: Prices | None  # where the options give none; None is unknown
    latency: LatencyModel
    check_alive: Callable[[], None] = _always  # raises BakeError if the service has exited


# Takes the model's name and the options.
Connect = Callable[[str, Settings], Connection]


def connect(name: str, settings: Settings) -> Connection:
    """The hosted service, or the one at `base_url` or TINKER_BASE_URL."""
    from promptbake_tinker.service import api_key

    url = settings.base_url or os.environ.get("TINKER_BASE_URL")
    latency = UNKNOWN if url else HOSTED
    return Connection(name, lambda: url, api_key, prices_of(name, None), latency)
