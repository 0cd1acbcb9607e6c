"""Sampling, and the log-probabilities of a prompt."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from promptbake_loopback.tinker.engine import Engine
from promptbake_loopback.tinker.lora import Lora

MASK_LOGPROB = -99999.0  # in the cells of a top-K table that nothing was asked for
ALTERNATIVES = 0x9E3779B97F4A7C15  # keeps their random numbers apart from the samples'


@dataclass(frozen=True, eq=False)
class Cells:
    """Tokens to score at positions of a prompt: [M] each. An id of -1 asks for nothing."""

    rows: Tensor  # row i scores position i + 1
    ids: Tensor

    @property
    def first_position(self) -> int | None:
        """The first position that is scored, if any is."""
        asked = self.rows[self.ids >= 0]
        return int(asked.min()) + 1 if len(asked) else None


@dataclass(frozen=True, eq=False)
class SampleRequest:
    """What one sample request asks for. `stop`: None means the tokenizer's end of sequence."""

    prompt: tuple[int, ...]
    max_tokens: int
    temperature: float
    seed: int
    stop: tuple[int, ...] | None = None
    prompt_logprobs: bool = False
    last_n: int | None = None
    topk_prompt: int = 0
    cells: Cells | None = None
    alternatives: int = 0

    @property
    def first_scored(self) -> int:
        """The first position whose log-probability is needed; the prompt's length for none."""
        length = len(self.prompt)
        firsts = [length]
        if self.prompt_logprobs:
            firsts.append(1 if self.last_n is None else length - self.last_n)
        if self.alternatives:
            firsts.append(1)
        if self.cells is not None and self.cells.first_position is not None:
            firsts.append(self.cells.first_position)
        return min(firsts)

    @property
    def cacheable(self) -> int:
        """How many of the prompt's tokens a prefix cache may serve: none that is scored."""
        first = self.first_scored
        return first if first > 1 else 0


@dataclass(frozen=True, eq=False)
class TopK:
    """The K likeliest tokens at each of N positions: [N, K] each, -99999.0 where none."""

    ids: Tensor
    logprobs: Tensor


@dataclass(frozen=True, eq=False)
class Sequence:
    """The sampled sequence of length T, with the token that ended it."""

    tokens: list[int]
    logprobs: list[float]
    stopped: bool


@dataclass(frozen=True, eq=False)
class SampleResult:
    """The answer to a SampleRequest. For a prompt of N tokens, by position:"""

    sequence: Sequence
    prompt_logprobs: Tensor | None  # [N], NaN where not scored
    topk_prompt: TopK | None  # [N, K]
    cells: Tensor | None  # [M]
    alternatives: TopK | None  # [N - 1, k], drawn, not the likeliest


@torch.no_grad()
def sample(engine: Engine, lora: Lora | None, request: SampleRequest) -> SampleResult:
    """Read the prompt, score it, and sample."""
    first = request.first_scored
    with engine.using(lora) as module:
        output = module(
            input_ids=torch.tensor([request.prompt]),
            use_cache=True,
            logits_to_keep=len(request.prompt) - first + 1,
        )
        logits = output.logits[0].float()  # row j predicts position first + j
        sequence = _decode(engine, module, output.past_key_values, logits[-1:], request)
    scores = logits[:-1].log_softmax(dim=1)
    return SampleResult(
        sequence,
        _prompt_logprobs(scores, first, request) if request.prompt_logprobs else None,
        _topk_prompt(scores, first, request)
        if request.prompt_logprobs and request.topk_prompt
        else None,
        _score_cells(scores, first, request.cells) if request.cells is not None else None,
        _alternatives(logits[:-1], request) if request.alternatives else None,
    )


def _prompt_logprobs(scores: Tensor, first: int, request: SampleRequest) -> Tensor:
    length = len(request.prompt)
    found = torch.full((length,), float("nan"))
    begin = 1 if request.last_n is None else length - request.last_n
    targets = torch.tensor(request.prompt[begin:], dtype=torch.long)
    found[begin:] = scores[begin - first :].gather(1, targets.unsqueeze(1)).squeeze(1)
    return found


def _topk_prompt(scores: Tensor, first: int, request: SampleRequest) -> TopK:
    length, k = len(request.prompt), request.topk_prompt
    begin = 1 if request.last_n is None else length - request.last_n
    found = _topk(scores[begin - first :], k)
    ids = torch.zeros(length, k, dtype=torch.long)
    logprobs = torch.full((length, k), MASK_LOGPROB)
    ids[begin:], logprobs[begin:] = found.ids, found.logprobs
    return TopK(ids, logprobs)


def _topk(scores: Tensor, k: int) -> TopK:
    width = min(k, scores.shape[1])
    top = scores.topk(width, dim=1)
    ids = torch.zeros(len(scores), k, dtype=torch.long)
    logprobs = torch.full((len(scores), k), MASK_LOGPROB)
    ids[:, :width], logprobs[:, :width] = top.indices, top.values
    return TopK(ids, logprobs)


def _score_cells(scores: Tensor, first: int, cells: Cells) -> Tensor:
    found = torch.zeros(len(cells.ids))
    asked = cells.ids >= 0
    found[asked] = scores[cells.rows[asked] + 1 - first, cells.ids[asked]]
    return found


def _alternatives(logits: Tensor, request: SampleRequest) -> TopK:
    """Draws at every position after the first, at the request's temperature."""
    shape = (len(logits), request.alternatives)
    generator = torch.Generator().manual_seed((request.seed ^ ALTERNATIVES) & (2**63 - 1))
    uniform = torch.rand(shape, generator=generator, dtype=torch.float64)
    temperature = max(request.temperature, 1e-6)
    cumulative = (logits.double() / temperature).softmax(dim=1).cumsum(dim=1)
    ids = torch.searchsorted(cumulative, uniform * cumulative[:, -1:], right=True)
    if not request.temperature:
        ids = logits.argmax(dim=1, keepdim=True).expand(shape)
    ids = ids.clamp(max=logits.shape[1] - 1)
    return TopK(ids, logits.log_softmax(dim=1).gather(1, ids))


def _decode(
    engine: Engine, module: Any, cache: Any, logits: Tensor, request: SampleRequest
) -> Sequence:
    """Sample. The torch backend draws the same numbers, one a step, for the same seed."""
    ends = (engine.tokenizer.eos_token_id,) if request.stop is None else request.stop
    generator = torch.Generator().manual_seed(request.seed)
    uniform = torch.rand(request.max_tokens, generator=generator, dtype=torch.float32)
    tokens: list[int] = []
    logprobs: list[float] = []
    while True:
        chosen = _choose(logits, request.temperature, uniform[len(tokens)])
        tokens.append(int(chosen))
        logprobs.append(float(logits.log_softmax(dim=1)[0, tokens[-1]]))
        if tokens[-1] in ends or len(tokens) == request.max_tokens:
            return Sequence(tokens, logprobs, tokens[-1] in ends)
        output = module(input_ids=chosen, past_key_values=cache, use_cache=True)
        logits, cache = output.logits[:, -1].float(), output.past_key_values


def _choose(logits: Tensor, temperature: float, uniform: Tensor) -> Tensor:
    """One token a row, [B, 1], by inverting the cumulative distribution; the likeliest at 0."""
    if not temperature:
        return logits.argmax(dim=1, keepdim=True)
    cumulative = (logits / max(temperature, 1e-6)).softmax(dim=1).cumsum(dim=1)
    drawn = torch.searchsorted(cumulative, uniform * cumulative[:, -1:])
    return drawn.clamp(max=logits.shape[1] - 1)
