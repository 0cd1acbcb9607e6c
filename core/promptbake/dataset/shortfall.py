"""Whether the responses that were kept are enough, and whether temperature made them differ."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping
from typing import Any

FEWEST = 3  # queries by which it can be told that temperature has no effect
SHARE = 0.5  # of the queries


def reasons_for(rejected: Iterable[Mapping[str, Any]]) -> str:
    """The reasons of rejected.jsonl's lines with their counts, the commonest first."""
    counts = Counter(line["reason"] for line in rejected)
    return "; ".join(f"{count}: {reason}" for reason, count in counts.most_common())


def same_at_every_temperature(
    responses: Iterable[tuple[str, float, str]],
) -> tuple[int, int] | None:
    """Whether temperature seems to have no effect.

    Args:
        responses: (query's id, temperature, text), rejected ones among them.

    Returns:
        How many queries have one text at every temperature, of how many with several; None where
        most have not.
    """
    by_query: dict[str, dict[float, str]] = defaultdict(dict)
    for query, temperature, text in responses:
        if text.strip():
            by_query[query][temperature] = text.strip()
    several = [texts for texts in by_query.values() if len(texts) > 1]
    same = sum(len(set(texts.values())) == 1 for texts in several)
    if len(several) < FEWEST or same < SHARE * len(several):
        return None
    return same, len(several)
