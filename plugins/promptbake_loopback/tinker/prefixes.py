"""What a prefix cache would spare: a count only, the engine computes everything."""

from __future__ import annotations

from bisect import bisect_left, insort
from collections import defaultdict

TokenIds = tuple[int, ...]


class Prefixes:
    """The prompts that each model's weights have seen."""

    def __init__(self) -> None:
        self._seen: defaultdict[str, list[TokenIds]] = defaultdict(list)  # sorted

    def hit(self, weights: str, prompt: TokenIds, limit: int) -> int:
        """How many of the prompt's first `limit` tokens the cache has; it then has them all."""
        seen = self._seen[weights]
        at = bisect_left(seen, prompt)
        # What shares the longest prefix stands next to it in the order.
        hit = max((_common(prompt, near) for near in seen[max(at - 1, 0) : at + 1]), default=0)
        if hit < len(prompt):
            insort(seen, prompt)
        return min(hit, limit)


def _common(one: TokenIds, other: TokenIds) -> int:
    for index, (left, right) in enumerate(zip(one, other, strict=False)):
        if left != right:
            return index
    return min(len(one), len(other))
