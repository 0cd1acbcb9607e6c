"""POST /v1/completions as vLLM has it: a prompt of token ids, and the log-probabilities of each."""

from __future__ import annotations

import heapq
import math
from collections.abc import Callable, Sequence
from typing import Any

from promptbake_loopback.errors import HttpError
from promptbake_loopback.openai.prices import Prices, Usage, framed

Row = Sequence[float]  # [vocabulary], nats
Logprobs = Callable[[list[int]], Sequence[Row]]  # ids [N] -> [N, vocabulary], nats
Entry = dict[str, Any]
FLOOR = -9999.0  # nats: JSON has no infinity, and vLLM says this instead


class Scorer:
    """Asks a model for the log-probabilities of a prompt, and continues it greedily.

    `logprobs` takes ids [N] and gives [N, vocabulary] in nats, as lists or as what has a
    `tolist`; row t is about the token that follows ids[: t + 1]. `decode` gives a token's text.
    More than `most` log-probabilities for a token are refused, as vLLM's --max-logprobs does.
    """

    def __init__(self, logprobs: Logprobs, decode: Callable[[int], str], most: int) -> None:
        self._logprobs = logprobs
        self._decode = decode
        self._most = most

    def complete(
        self, request: dict[str, Any], prices: Prices, number: int
    ) -> tuple[dict[str, Any], Usage]:
        """vLLM's text completion, and what it costs. Raises HttpError 400."""
        prompts = _prompts(request.get("prompt"))
        length = _whole(request, "max_tokens", least=1)
        length = 16 if length is None else length
        k = _whole(request, "prompt_logprobs", least=-1)
        choices = [
            {"index": index, **self._choice(ids, length, k)} for index, ids in enumerate(prompts)
        ]
        prompt_tokens = sum(map(len, prompts))
        completion_tokens = length * len(prompts)
        usage = prices.bill(prompt_tokens, completion_tokens)
        name = f"cmpl-{number}"
        return framed("text_completion", name, request["model"], choices, usage), usage

    def _choice(self, ids: list[int], length: int, k: int | None) -> dict[str, Any]:
        rows = self._rows(ids)
        wanted = len(rows[0]) if k == -1 else k
        if wanted is not None and wanted > self._most:
            raise HttpError(
                400,
                f"Requested prompt logprobs of {wanted}, "
                f"which is greater than max allowed: {self._most}",
                param="prompt_logprobs",
            )
        written = [_best(rows[-1])]
        while len(written) < length:
            written.append(_best(self._rows(ids + written)[-1]))
        scores = None
        if wanted is not None:
            pairs = zip(rows, ids[1:], strict=False)  # the last row is about what comes after
            scores = [None, *(self._entries(row, token, wanted) for row, token in pairs)]
        return {
            "text": "".join(map(self._decode, written)),
            "logprobs": None,
            "finish_reason": "length",
            "stop_reason": None,
            "prompt_logprobs": scores,
        }

    def _entries(self, row: Row, token: int, k: int) -> dict[str, Entry]:
        """The prompt's own token first, then the k best ones; k or k + 1 entries."""
        best = heapq.nlargest(k, range(len(row)), key=row.__getitem__)
        ranks = {token: sum(other >= row[token] for other in row)}
        ranks |= {other: rank for rank, other in enumerate(best, 1)}
        return {
            str(other): {
                "logprob": FLOOR if row[other] == -math.inf else row[other],
                "rank": rank,
                "decoded_token": self._decode(other),
            }
            for other, rank in ranks.items()
        }

    def _rows(self, ids: list[int]) -> Sequence[Row]:
        rows: Any = self._logprobs(ids)
        found: Sequence[Row] = rows.tolist() if hasattr(rows, "tolist") else rows
        return found


def _best(row: Row) -> int:
    return max(range(len(row)), key=row.__getitem__)


def _prompts(prompt: object) -> list[list[int]]:
    if isinstance(prompt, list) and prompt:
        prompts = prompt if isinstance(prompt[0], list) else [prompt]
        if all(_is_ids(ids) for ids in prompts):
            return prompts
    raise HttpError(400, "the prompt is a list of token ids, or a list of such", param="prompt")


def _is_ids(ids: object) -> bool:
    return isinstance(ids, list) and bool(ids) and all(isinstance(i, int) and i >= 0 for i in ids)


def _whole(request: dict[str, Any], name: str, least: int) -> int | None:
    found = request.get(name)
    if found is None or (isinstance(found, int) and found >= least):
        return found
    raise HttpError(400, f"{name} is an integer, at least {least}", param=name)
