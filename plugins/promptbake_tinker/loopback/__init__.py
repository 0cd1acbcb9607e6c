"""A Tinker service on this machine: the real SDK drives it over HTTP, a small real model answers.

For tests, and for trying a configuration before it costs money. Nothing here is promised by the
hosted service; what is known of that is in the plugin's README.
"""

from __future__ import annotations

from promptbake_tinker.loopback.faults import Fault
from promptbake_tinker.loopback.meter import Meter
from promptbake_tinker.loopback.server import KEY, Loopback

__all__ = ["KEY", "Fault", "Loopback", "Meter"]
