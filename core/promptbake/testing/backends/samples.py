"""The sampling part of the conformance suite for backends."""

from __future__ import annotations

from collections.abc import Sequence

import torch

from promptbake.interfaces import Backend, Model
from promptbake.testing.backends.common import BackendTests, prompts, score, some_seeds, top_k
from promptbake.testing.backends.training_cases import silent_student
from promptbake.types import Completion, Span, StreamChunk, TokenIds

MANY = {1.0: 150, 0.5: 80}  # draws of one token at these temperatures
SIGMAS = 4.0
LIKELY = 20  # tokens whose frequency is looked at
MAX_TOKENS = 10
HOT = 1.5  # a temperature at which no two responses are alike


class SampleTests(BackendTests):
    """Of `model.sample` and `model.stream`."""

    def test_every_prompt_gets_one_response(self, base: Model) -> None:
        count = (base.sample_batch or 4) + 1  # more than one batch
        progress: list[float] = []
        responses = base.sample(
            (prompts(base) * count)[:count],
            max_tokens=2,
            temperatures=[1.0] * count,
            seeds=some_seeds(count),
            progress=progress.append,
        )
        indices = sorted(index for index, _ in responses)
        assert indices == list(range(count)), (
            f"indices {indices} for {count} prompts, with `sample_batch` = {base.sample_batch}: "
            "they count from the first prompt of all, whatever the batch"
        )
        assert min(progress, default=0.0) >= 0, f"`progress` is called with {min(progress)}"
        assert sum(progress) <= count + 1e-6, (
            f"`progress` is called with {sum(progress):.1f} responses in all, of {count}: it takes "
            "what is done since the last call"
        )

    def test_the_same_seeds_give_the_same_again(self, base: Model) -> None:
        before = prompts(base)
        first, again, other = (
            _sample(base, before, seeds=some_seeds(len(before), of)) for of in (0, 0, 1)
        )
        assert first == again, "the same seeds give other responses: look for a global generator"
        assert first != other, "other seeds give the same responses"

    def test_each_row_has_its_own_seed(self, base: Model) -> None:
        (prompt, *_), (one, other) = prompts(base), some_seeds(2)
        rows = _sample(base, [prompt] * 4, seeds=[one, other, other, one])
        assert (rows[0], rows[1]) == (rows[3], rows[2]), (
            "rows with the same prompt and the same seed differ: a row's random numbers come from "
            "its own seed alone"
        )
        assert len(set(_sample(base, [prompt] * 8, seeds=some_seeds(8)))) > 1, (
            "rows with the same prompt and seeds of their own are all the same"
        )

    def test_a_batch_gets_the_same_responses_whatever_else_is_sampled(self, base: Model) -> None:
        size = base.sample_batch or 1
        rows = (prompts(base) * (size + 1))[: size + 3]
        seeds = some_seeds(len(rows))
        batches = [slice(start, start + size) for start in range(0, len(rows), size)]
        calls = [slice(None)] if base.sample_batch is None else batches
        first = [each for call in calls for each in _sample(base, rows[call], seeds=seeds[call])]
        again = [_sample(base, rows[each], seeds=seeds[each]) for each in reversed(batches)]
        assert first == [each for batch in reversed(again) for each in batch], (
            "a batch gets other responses alone or in another order: `sample_batch` says how many "
            "prompts are best sampled together, and None that a response depends on no other row"
        )

    def test_temperature_zero_is_greedy(self, base: Model) -> None:
        for prompt, response in zip(prompts(base), _greedy(base), strict=True):
            if not response.tokens:
                continue
            span = Span(prompt + response.tokens, len(response.tokens))
            top = top_k(base, [span], k=1)[0]
            (own,) = score(base, [span], [torch.tensor([response.tokens]).T])
            short = (top.logprobs - own).max().item()
            assert short <= self.tolerance, (
                f"a greedy token is {short:.3f} nats less likely than the likeliest at its "
                "position: look at temperature 0, and at which position's logits are scored"
            )

    def test_each_row_has_its_own_temperature(self, base: Model) -> None:
        rows = _sample(base, prompts(base)[:1] * 8, [0.0, HOT] * 4)
        greedy = _greedy(base)[0]
        assert set(rows[::2]) == {greedy}, "rows of temperature 0 among others are not greedy"
        assert set(rows[1::2]) != {greedy}, f"rows of temperature {HOT} among others are greedy"

    def test_tokens_are_as_frequent_as_they_are_probable(self, base: Model) -> None:
        prompt = prompts(base)[0]
        for temperature, count in MANY.items():
            responses = _sample(base, [prompt] * count, [temperature] * count, max_tokens=1)
            tokens = [set(each.tokens) or base.renderer.stop_ids for each in responses]
            ids, least, most = _probabilities(base, prompt, temperature)
            for n in (1, 2, 3, 5, 10, LIKELY):
                share = sum(bool(each & set(ids[:n])) for each in tokens) / count
                low, high = sum(least[:n]), min(sum(most[:n]), 1.0)
                expected = min(max(share, low), high)
                room = SIGMAS * (expected * (1 - expected) / count) ** 0.5 + 1 / count
                assert abs(share - expected) <= room, (
                    f"at temperature {temperature:g} the {n} likeliest tokens are {share:.0%} of "
                    f"{count} draws, and by `top_k` {low:.0%} were to be expected: look for bits "
                    "in the place of nats, a temperature that is not used, and a top-p that cuts"
                )

    def test_a_response_that_is_cut_is_not_complete(self, base: Model) -> None:
        room = MAX_TOKENS // 2
        for cut, whole in zip(_greedy(base, max_tokens=room), _greedy(base), strict=True):
            assert cut.tokens == whole.tokens[:room], (
                f"greedy, the tokens are {cut.tokens} with room for {room}, and "
                f"{whole.tokens} with room for {MAX_TOKENS}"
            )
            if len(whole.tokens) > room:
                assert not cut.complete, (
                    f"with room for {room} tokens a response is complete, and with room for "
                    f"{MAX_TOKENS} it goes on: `complete` tells whether a stop token came"
                )
        for each in _sample(base, prompts(base) * 8):
            assert not base.renderer.stop_ids & set(each.tokens), "a stop token is left in"
            assert len(each.tokens) == MAX_TOKENS or each.complete, (
                f"{len(each.tokens)} tokens, where {MAX_TOKENS} were allowed, and not complete: "
                "`complete` tells whether a stop token came"
            )

    def test_a_turn_that_ends_is_complete(self, backend: Backend, base: Model) -> None:
        student = silent_student(backend, base, self.lr)
        for room in (1, MAX_TOKENS):
            for response in _greedy(student, max_tokens=room):
                assert response == Completion((), complete=True), (
                    f"a student that ends its turn at once gives {response}: the stop token ends a "
                    "response, makes it complete, and is left out"
                )
            response = _stream(student, prompts(student)[0], max_tokens=room)
            assert response == Completion((), complete=True), (
                f"a student that ends its turn at once streams {response}: the stop token is left "
                "out, and the reason to stop is 'stop'"
            )

    def test_a_stream_is_a_response_in_chunks(self, base: Model) -> None:
        prompt = prompts(base)[0]
        for room in (MAX_TOKENS, 1):
            sampled, streamed = (
                _greedy(base, max_tokens=room)[0],
                _stream(base, prompt, max_tokens=room),
            )
            assert streamed == sampled, f"greedy, it streams {streamed}, and samples {sampled}"
        one, again, *others = (
            _stream(base, prompt, temperature=HOT, seed=seed) for seed in (1, 1, 2, 3, 4)
        )
        assert one == again, "the same seed streams another response"
        assert any(one != other for other in others), "other seeds stream the same response"


def _sample(
    model: Model,
    before: Sequence[TokenIds],
    temperatures: Sequence[float] = (),
    seeds: Sequence[int] = (),
    max_tokens: int = MAX_TOKENS,
) -> list[Completion]:
    """The responses, in the order of their prompts."""
    responses = dict(
        model.sample(
            before,
            max_tokens=max_tokens,
            temperatures=temperatures or [HOT] * len(before),
            seeds=seeds or some_seeds(len(before)),
        )
    )
    return [responses[index] for index in range(len(before))]


def _greedy(model: Model, max_tokens: int = MAX_TOKENS) -> list[Completion]:
    """The likeliest response to each of the conversations."""
    return _sample(model, prompts(model), [0.0] * len(prompts(model)), max_tokens=max_tokens)


def _stream(
    model: Model,
    prompt: TokenIds,
    max_tokens: int = MAX_TOKENS,
    temperature: float = 0.0,
    seed: int = 1,
) -> Completion:
    """A streamed response as a whole."""
    chunks = list(model.stream(prompt, max_tokens=max_tokens, temperature=temperature, seed=seed))
    assert all(isinstance(chunk, StreamChunk) for chunk in chunks), f"no StreamChunks: {chunks}"
    reasons = [chunk.stop_reason for chunk in chunks]
    assert reasons, "a stream has no chunks: the last one says why it ended"
    assert reasons[-1] in ("stop", "length"), f"the last chunk's `stop_reason` is {reasons[-1]!r}"
    assert set(reasons[:-1]) <= {None}, f"other chunks than the last have a reason: {reasons}"
    tokens = tuple(token for chunk in chunks for token in chunk.tokens)
    return Completion(tokens, complete=reasons[-1] == "stop")


def _probabilities(
    model: Model, prompt: TokenIds, temperature: float
) -> tuple[list[int], list[float], list[float]]:
    """The likeliest tokens behind a prompt, and the least and the most that each may have."""
    span = Span((*prompt, prompt[-1]), 1)
    top = top_k(model, [span], k=LIKELY)[0]
    power, likeliest = 1 / temperature, top.logprobs[0].double()
    rest = max(1 - likeliest.exp().sum().item(), 0.0)
    inside = (power * likeliest).exp()
    others = rest * ((power - 1) * likeliest[-1]).exp().item()  # at most, exactly so at 1
    least = inside / (inside.sum() + others)
    most = least if power == 1 else inside / inside.sum()
    return top.ids[0].tolist(), least.tolist(), most.tolist()
