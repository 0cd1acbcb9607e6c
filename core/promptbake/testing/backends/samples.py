"""The sampling part of the conformance suite for backends."""

from __future__ import annotations

from collections.abc import Sequence

import pytest
import torch

from promptbake.interfaces import Backend, Model
from promptbake.testing.backends.common import BackendTests, ask, prompts, some_seeds, tops
from promptbake.testing.backends.training_cases import silent_student
from promptbake.types import Completion, Span, TokenIds

MANY = {1.0: 150, 0.5: 80}  # draws of one token at these temperatures
SIGMAS = 4.0
LIKELY = 20  # tokens whose frequency is looked at
SAID = 10  # tokens of a response
HOT = 1.5  # a temperature at which no two responses are alike


class SampleTests(BackendTests):
    """Of `model.sample` and `model.stream`."""

    def test_every_prompt_gets_one_response(self, base: Model) -> None:
        count = (base.sample_batch or 4) + 1  # more than one batch
        asked = (prompts(base) * count)[:count]
        told: list[float] = []
        found = list(
            base.sample(
                asked,
                max_tokens=2,
                temperatures=[1.0] * count,
                seeds=some_seeds(count),
                progress=told.append,
            )
        )
        indices = sorted(index for index, _ in found)
        assert indices == list(range(count)), (
            f"indices {indices} for {count} prompts, with `sample_batch` = {base.sample_batch}: "
            "they count from the first prompt of all, whatever the batch"
        )
        assert min(told, default=0.0) >= 0, f"`progress` is told {min(told)}"
        assert sum(told) <= count + 1e-6, (
            f"`progress` is told of {sum(told):.1f} responses, of {count}: tell it what is done "
            "since the last time"
        )

    def test_the_same_seeds_give_the_same_again(self, base: Model) -> None:
        asked = prompts(base)
        first, again, other = (
            _said(base, asked, seeds=some_seeds(len(asked), of)) for of in (0, 0, 1)
        )
        assert first == again, "the same seeds give other responses: look for a global generator"
        assert first != other, "other seeds give the same responses"

    def test_each_row_has_its_own_seed(self, base: Model) -> None:
        asked = prompts(base)[:1]
        one, two = some_seeds(2)
        found = _said(base, asked * 4, seeds=[one, two, two, one])
        assert (found[0], found[1]) == (found[3], found[2]), (
            "rows with the same prompt and the same seed differ: a row's random numbers come from "
            "its own seed alone"
        )
        assert len(set(_said(base, asked * 8, seeds=some_seeds(8)))) > 1, (
            "rows with the same prompt and seeds of their own are all the same"
        )

    def test_an_answer_does_not_depend_on_its_company(self, base: Model) -> None:
        if base.sample_batch is not None:
            pytest.skip("`sample_batch` says that it may")
        asked = prompts(base)
        seeds = some_seeds(len(asked))
        together = _said(base, asked, seeds=seeds)
        for index, prompt in enumerate(asked):
            (alone,) = _said(base, [prompt], seeds=[seeds[index]])
            assert alone == together[index], (
                "a prompt gets another answer alone than in company: `sample_batch` None promises "
                "that it does not, so say how many are best answered together"
            )

    def test_temperature_zero_is_greedy(self, base: Model) -> None:
        asked = prompts(base)
        for prompt, found in zip(asked, _said(base, asked, [0.0] * len(asked)), strict=True):
            if not found.tokens:
                continue
            span = Span(prompt + found.tokens, len(found.tokens))
            top = tops(base, [span], k=1)[0]
            (own,) = ask(base, [span], [torch.tensor([found.tokens]).T])
            short = (top.logprobs - own).max().item()
            assert short <= self.tolerance, (
                f"a greedy token is {short:.3f} nats less likely than the likeliest at its "
                "position: look at temperature 0, and at which position's logits are scored"
            )

    def test_each_row_has_its_own_temperature(self, base: Model) -> None:
        asked = prompts(base)[:1] * 8
        greedy = _said(base, asked, [0.0] * 8)[0]
        found = _said(base, asked, [0.0, HOT] * 4)
        assert set(found[::2]) == {greedy}, "rows of temperature 0 among others are not greedy"
        assert set(found[1::2]) != {greedy}, f"rows of temperature {HOT} among others are greedy"

    def test_tokens_are_as_frequent_as_they_are_probable(self, base: Model) -> None:
        prompt = prompts(base)[0]
        for heat, count in MANY.items():
            found = _said(base, [prompt] * count, [heat] * count, max_tokens=1)
            said = [set(each.tokens) or base.renderer.stop_ids for each in found]
            ids, least, most = _probabilities(base, prompt, heat)
            for n in (1, 2, 3, 5, 10, LIKELY):
                share = sum(bool(tokens & set(ids[:n])) for tokens in said) / count
                low, high = sum(least[:n]), min(sum(most[:n]), 1.0)
                expected = min(max(share, low), high)
                room = SIGMAS * (expected * (1 - expected) / count) ** 0.5 + 1 / count
                assert abs(share - expected) <= room, (
                    f"at temperature {heat:g} the {n} likeliest tokens are {share:.0%} of {count} "
                    f"draws, and by `top_k` {low:.0%} were to be expected: look for bits in the "
                    "place of nats, a temperature that is not used, and a top-p that cuts"
                )

    def test_a_response_that_is_cut_is_not_complete(self, base: Model) -> None:
        asked, room = prompts(base), SAID // 2
        short, long = (_said(base, asked, [0.0] * len(asked), max_tokens=n) for n in (room, SAID))
        for cut, whole in zip(short, long, strict=True):
            assert cut.tokens == whole.tokens[:room], (
                f"greedy, the tokens are {cut.tokens} with room for {room}, and "
                f"{whole.tokens} with room for {SAID}"
            )
            if len(whole.tokens) > room:
                assert not cut.complete, (
                    f"with room for {room} tokens a response is complete, and with room for "
                    f"{SAID} it goes on: `complete` tells whether a stop token came"
                )
        for each in _said(base, asked * 8):
            assert not base.renderer.stop_ids & set(each.tokens), "a stop token is left in"
            assert len(each.tokens) == SAID or each.complete, (
                f"{len(each.tokens)} tokens, where {SAID} were allowed, and not complete: "
                "`complete` tells whether a stop token came"
            )

    def test_a_turn_that_ends_is_complete(self, backend: Backend, base: Model) -> None:
        student, asked = silent_student(backend, base, self.lr), prompts(base)
        for room in (1, SAID):
            for found in _said(student, asked, [0.0] * len(asked), max_tokens=room):
                assert not found.tokens, (
                    f"a student that ends its turn at once says {found.tokens}: the stop token "
                    "ends a response, and is left out"
                )
                assert found.complete, "a turn that a stop token ended is not complete"
        streamed = list(student.stream(asked[0], max_tokens=SAID, temperature=0.0, seed=0))
        assert streamed == [], (
            f"a student that ends its turn at once streams {streamed}: the stop token ends a "
            "stream, and is left out"
        )

    def test_a_stream_is_a_response_token_by_token(self, base: Model) -> None:
        prompt = prompts(base)[0]
        (whole,) = _said(base, [prompt], [0.0])
        found = tuple(base.stream(prompt, max_tokens=SAID, temperature=0.0, seed=1))
        assert found == whole.tokens, f"greedy, it streams {found}, and samples {whole.tokens}"
        one, again, *others = (
            list(base.stream(prompt, max_tokens=SAID, temperature=HOT, seed=seed))
            for seed in (1, 1, 2, 3, 4)
        )
        assert one == again, "the same seed streams another response"
        assert any(one != other for other in others), "other seeds stream the same response"


def _said(
    model: Model,
    asked: Sequence[TokenIds],
    temperatures: Sequence[float] = (),
    seeds: Sequence[int] = (),
    max_tokens: int = SAID,
) -> list[Completion]:
    """The responses, in the order of their prompts."""
    found = dict(
        model.sample(
            asked,
            max_tokens=max_tokens,
            temperatures=temperatures or [HOT] * len(asked),
            seeds=seeds or some_seeds(len(asked)),
        )
    )
    return [found[index] for index in range(len(asked))]


def _probabilities(
    model: Model, prompt: TokenIds, temperature: float
) -> tuple[list[int], list[float], list[float]]:
    """The likeliest tokens behind a prompt, and the least and the most that each may have."""
    span = Span((*prompt, prompt[-1]), 1)
    top = tops(model, [span], k=LIKELY)[0]
    power, likeliest = 1 / temperature, top.logprobs[0].double()
    rest = max(1 - likeliest.exp().sum().item(), 0.0)
    inside = (power * likeliest).exp()
    others = rest * ((power - 1) * likeliest[-1]).exp().item()  # at most, exactly so at 1
    least = inside / (inside.sum() + others)
    most = least if power == 1 else inside / inside.sum()
    return top.ids[0].tolist(), least.tolist(), most.tolist()
