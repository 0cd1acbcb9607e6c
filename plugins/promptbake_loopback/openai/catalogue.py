"""The models that are on offer, and what they cost."""

from __future__ import annotations

from collections.abc import Sequence
from decimal import Decimal
from typing import Any

from promptbake_loopback.errors import HttpError
from promptbake_loopback.openai.prices import Prices

PARAMETERS = ("max_tokens", "seed", "stop", "temperature", "top_p")


class Catalogue:
    """What GET /v1/models shows: OpenAI's fields, and OpenRouter's."""

    def __init__(
        self,
        models: Sequence[str],
        prices: Prices,
        context_length: int,
        parameters: Sequence[str],
    ) -> None:
        self.prices = prices
        self._cards = {
            model: {
                "id": model,
                "object": "model",
                "created": 1735689600,
                "owned_by": "loopback",
                "name": model,
                "context_length": context_length,  # tokens
                "pricing": {
                    "prompt": _in_decimals(prices.prompt),
                    "completion": _in_decimals(prices.completion),
                },
                "supported_parameters": list(parameters),
            }
            for model in models
        }

    def listing(self) -> dict[str, Any]:
        """All models."""
        return {"object": "list", "data": list(self._cards.values())}

    def find(self, model: object) -> dict[str, Any]:
        """One of them. Raises HttpError 400 and 404."""
        if not isinstance(model, str):
            raise HttpError(400, "you must provide a model parameter", param="model")
        if model not in self._cards:
            message = f"The model `{model}` does not exist or you do not have access to it."
            raise HttpError(404, message, "model_not_found", "model")
        return self._cards[model]


def _in_decimals(dollars: float) -> str:
    return f"{Decimal(repr(dollars)):f}"
