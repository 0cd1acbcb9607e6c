"""What Tinker bills, in dollars: a table with its date."""

from __future__ import annotations

from dataclasses import dataclass

from promptbake import BakeError, Usage

AS_OF = "2026-07"
CACHED = 0.2  # of the price of prefill
KINDS = ("prefill", "sample", "train")


@dataclass(frozen=True)
class Prices:
    """Dollars per million tokens."""

    prefill: float
    sample: float
    train: float
    source: str

    def priced(self, usage: Usage) -> Usage:
        """The same usage with its dollars."""
        millionths = (
            usage.input_tokens * self.prefill
            + usage.cached_input_tokens * self.prefill * CACHED
            + usage.output_tokens * self.sample
            + usage.train_tokens * self.train
        )
        return Usage(**vars(usage) | {"dollars": millionths / 1e6})


TABLE = {
    "Qwen/Qwen3-8B": (0.195, 0.60, 0.44),
    "Qwen/Qwen3.5-4B": (0.33, 1.005, 0.737),
    "openai/gpt-oss-20b": (0.18, 0.45, 0.396),
}


def prices_of(model: str, given: dict[str, float] | None, option: str = "prices") -> Prices | None:
    """The prices of a model, as given or from the table; None if they are unknown."""
    if given is not None:
        if set(given) != set(KINDS) or any(price < 0 for price in given.values()):
            raise BakeError(f"{option}: expected {', '.join(KINDS)}, each 0 or more; got {given}")
        return Prices(given["prefill"], given["sample"], given["train"], option)
    if model not in TABLE:
        return None
    prefill, sample, train = TABLE[model]
    return Prices(prefill, sample, train, f"Tinker's price list of {AS_OF}, {model}")
