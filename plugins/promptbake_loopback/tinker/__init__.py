"""A Tinker service on this machine: the real SDK drives it over HTTP, a small real model answers.

For tests, and for trying a configuration before it costs money. What it does is what the SDK's
source expects and its documentation says; it was never held against the hosted service.
"""

from __future__ import annotations

from promptbake_tinker.loopback.faults import Fault
from promptbake_tinker.loopback.meter import Meter
from promptbake_tinker.loopback.server import KEY, Loopback

__all__ = ["KEY", "Fault", "Loopback", "Meter"]
