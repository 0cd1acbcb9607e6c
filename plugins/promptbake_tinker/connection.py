"""How a base model is reached: under which name, where, with which key, at what price and pace."""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import dataclass

from promptbake_tinker.latency import HOSTED, UNKNOWN, LatencyModel
from promptbake_tinker.prices import Prices, prices_of
from promptbake_tinker.settings import Settings


def _always() -> None:
    """A service that is not ours cannot be seen to end."""


@dataclass(frozen=True)
class Connection:
    """One model at one service. `url` and `key` are called when the service is first needed."""

    served: str  # the model's name there, and where its tokenizer is found
    url: Callable[[], str | None]  # None is the hosted service
    key: Callable[[], str | None]  # None where the SDK has other credentials
    prices: Prices | None  # where the options give none; None is unknown
    pace: LatencyModel
    check_alive: Callable[[], None] = _always  # raises BakeError where the service has ended


# Takes the model's name and the options.
Connect = Callable[[str, Settings], Connection]


def connect(name: str, settings: Settings) -> Connection:
    """The hosted service, or the one at `base_url` or TINKER_BASE_URL."""
    from promptbake_tinker.service import api_key

    url = settings.base_url or os.environ.get("TINKER_BASE_URL")
    pace = UNKNOWN if url else HOSTED
    return Connection(name, lambda: url, api_key, prices_of(name, None), pace)
