"""A chat endpoint on this machine: it speaks OpenAI's API over HTTP, and OpenRouter's additions.

For tests, for benchmarks, and for trying a configuration before it costs money. Its texts mean
nothing. What it does is what the services' documentation says and the `openai` client expects; it
was never held against a hosted service.
"""

from __future__ import annotations

from promptbake_openai.loopback.faults import ALL_KINDS, LASTING, PASSING
from promptbake_openai.loopback.meter import Meter, identity
from promptbake_openai.loopback.prices import Prices
from promptbake_openai.loopback.server import KEY, Endpoint

__all__ = ["ALL_KINDS", "KEY", "LASTING", "PASSING", "Endpoint", "Meter", "Prices", "identity"]
