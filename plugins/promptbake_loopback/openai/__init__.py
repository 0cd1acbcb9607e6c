"""A chat endpoint on this machine: it speaks OpenAI's API over HTTP, and OpenRouter's additions.

For tests, for benchmarks, and for trying a configuration before it costs money. Its texts mean
nothing. What it does is what the services' documentation says and the `openai` client expects; it
was never compared with a hosted service.
"""

from __future__ import annotations

from promptbake_loopback.openai.faults import KINDS, LASTING, TRANSIENT
from promptbake_loopback.openai.meter import Meter, identity
from promptbake_loopback.openai.prices import Prices
from promptbake_loopback.openai.server import KEY, ChatEndpoint

__all__ = ["KEY", "KINDS", "LASTING", "TRANSIENT", "ChatEndpoint", "Meter", "Prices", "identity"]
