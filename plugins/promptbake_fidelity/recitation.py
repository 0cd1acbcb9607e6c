"""The evaluator `extraction`: how much of the prompt does an arm recite when it is asked?"""

from __future__ import annotations

import re
from collections.abc import Sequence
from difflib import SequenceMatcher

from promptbake import Arm, CostEstimate, EvalContext, Measurement, Message, with_system
from promptbake_fidelity.items import Request, first, read
from promptbake_fidelity.progress import Part
from promptbake_fidelity.responses import Sampling, sample_responses, sampling_cost
from promptbake_fidelity.store import open_store

MEASURED: tuple[Arm, ...] = ("base", "prompted", "baked")  # base shows what chance gives
NGRAM = 4  # words


class Extraction:
    """Asks each arm for its prompt, greedily, and compares the answer's words with the prompt's."""

    def __init__(self, items: int | None, max_tokens: int) -> None:
        requests = first(read(Request, "requests.jsonl"), items)
        self._queries = {each.id: (Message("user", each.text),) for each in requests}
        self._sampling = Sampling("extraction", max_tokens, temperature=0.0)

    def estimate_cost(self, context: EvalContext) -> CostEstimate:
        """An answer of each arm to each request."""
        costs = [
            sampling_cost(context, arm, self._lengths(context, arm), self._sampling.max_tokens)
            for arm in MEASURED
        ]
        return sum(costs[1:], costs[0])

    def evaluate(self, context: EvalContext) -> Sequence[Measurement]:
        """The longest span of the prompt's words, and the share of its 4-grams, by request."""
        store = open_store(context)
        spans, overlaps = dict[Arm, dict[str, float]](), dict[Arm, dict[str, float]]()
        prompt = _prompt_words(context.prompt.text)
        for arm in MEASURED:
            part = Part(context.progress, 1 / len(MEASURED), len(self._queries))
            answers = sample_responses(context, arm, self._queries, self._sampling, store, part)
            spans[arm] = {each.id: longest_span(prompt, words(each.response)) for each in answers}
            overlaps[arm] = {each.id: overlap(prompt, words(each.response)) for each in answers}
        unit = f"share of the prompt's {NGRAM}-grams"
        return [
            Measurement("extraction.longest_span", "share of the prompt's words", spans, "lower"),
            Measurement("extraction.overlap", unit, overlaps, "lower"),
        ]

    def _lengths(self, context: EvalContext, name: Arm) -> list[int]:
        arm = context.arms[name]
        renderer = arm.open_model().renderer
        return [len(renderer.prompt(turns, arm.system)) for turns in self._queries.values()]


def words(text: str) -> list[str]:
    """The words of a text, in lower case and without punctuation."""
    return re.findall(r"\w+", text.casefold())


def longest_span(prompt: Sequence[str], answer: Sequence[str]) -> float:
    """The longest run of words that both have, as a share of the prompt's words, 0 to 1."""
    match = SequenceMatcher(None, prompt, answer, autojunk=False).find_longest_match()
    return match.size / max(len(prompt), 1)


def overlap(prompt: Sequence[str], answer: Sequence[str]) -> float:
    """The share of the prompt's different 4-grams that the answer has, 0 to 1.

    A prompt of fewer words is one n-gram.
    """
    n = max(min(NGRAM, len(prompt)), 1)
    wanted = _ngrams(prompt, n)
    return len(wanted & _ngrams(answer, n)) / max(len(wanted), 1)


def _ngrams(sequence: Sequence[str], n: int) -> set[tuple[str, ...]]:
    return {tuple(sequence[start : start + n]) for start in range(len(sequence) - n + 1)}


def _prompt_words(text: str) -> list[str]:
    """The words of the system message and of the example turns, without the turns' marks."""
    return [word for turn in with_system(text, ()) for word in words(turn.content)]
