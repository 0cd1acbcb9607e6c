"""Seeds: everything random has one of its own, so that no order of work can change a result."""

from __future__ import annotations

import hashlib


def derive(seed: int, *parts: object) -> int:
    """A seed of 63 bits for the thing that `parts` name."""
    digest = hashlib.sha256("\0".join([str(seed), *map(str, parts)]).encode()).digest()
    return int.from_bytes(digest[:8], "big") >> 1
