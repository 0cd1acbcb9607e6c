"""A Tinker service on this machine: the real SDK drives it over HTTP, a small real model answers.

For tests, and for trying a configuration before it costs money. What it does is what the SDK's
source expects and its documentation says; it was never compared with the hosted service.
"""

from __future__ import annotations

from promptbake_loopback.faults import Fault
from promptbake_loopback.tinker.meter import Meter
from promptbake_loopback.tinker.server import KEY, TinkerLoopback

__all__ = ["KEY", "Fault", "Meter", "TinkerLoopback"]
