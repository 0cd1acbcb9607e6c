"""The teacher `openai` against the double, beside the same model in this process."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import Tensor

from promptbake.config import resolve
from promptbake.errors import BakeError
from promptbake.objective import TailedLoss, outside, realised_draw
from promptbake.plugins import Offer, Registry
from promptbake.progress import SilentReporter
from promptbake.runs import Run
from promptbake.session import Session
from promptbake.targets import ask_teacher
from promptbake.testing.tiny import tiny_model, tiny_tokenizer
from promptbake.types import Datum, Message, Prompt, Span, Targets
from promptbake_losses.divergences import ForwardKL
from promptbake_openai.endpoint import Endpoint
from promptbake_openai.gate import Gate
from promptbake_openai.loopback import KEY
from promptbake_openai.loopback import Endpoint as Double
from promptbake_openai.teacher import OpenAITeacher
from promptbake_openai.vocabulary import TokenizerError, Vocabulary
from promptbake_torch.loading import make_engine
from promptbake_torch.model import TorchModel

K = 6
PROMPT = Prompt("pirate", "Answer like a pirate who has lost his map.")
TALKS = {
    "What is a tide?": "Arr, the moon!",
    "Who are you?": "A poor man, matey.",
    "How far is it?": "Ten leagues.",
    "Say hm.": "Hm!",
}
Rows = list[dict[str, Any] | None]


@pytest.fixture(scope="module", autouse=True)
def key() -> Iterator[None]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("OPENAI_API_KEY", KEY)
        yield


@pytest.fixture(scope="module")
def twin() -> TorchModel:
    return TorchModel(make_engine(tiny_model(), tiny_tokenizer(), "tiny", "tiny"), None, 8)


def datums(twin: TorchModel) -> list[Datum]:
    found = []
    for number, (query, answer) in enumerate(TALKS.items()):
        turns = (Message("user", query),)
        response = twin.renderer.response(answer, True)
        student = twin.renderer.prompt(turns) + response
        teacher = twin.renderer.prompt(turns, PROMPT.text) + response
        found.append(Datum(f"c{number}", f"q{number}", student, teacher, len(response)))
    return found


def spans(twin: TorchModel) -> list[Span]:
    return [datum.teacher for datum in datums(twin)]


def scores(ids: list[int]) -> Tensor:
    with torch.inference_mode():
        logits = MODEL(torch.tensor([ids])).logits[0].float()
    return logits.log_softmax(dim=1)


MODEL, TOKENIZER = tiny_model(), tiny_tokenizer()


def decoded(token: int) -> str:
    """As vLLM: special tokens are shown."""
    text: str = TOKENIZER.decode([token])
    return text


@contextmanager
def serving(
    logprobs: Callable[[list[int]], Any] | None = scores,
    decode: Callable[[int], str] = decoded,
    **options: Any,
) -> Iterator[Double]:
    with Double(logprobs=logprobs, decode=decode, **options) as double:
        yield double


def plain(double: Double, max_retries: int = 0) -> Endpoint:
    return Endpoint(
        "tiny-chat",
        double.url,
        "OPENAI_API_KEY",
        gate=Gate(),
        timeout=5.0,
        max_retries=max_retries,
        connections=4,
    )


def teacher(*doubles: Double, max_retries: int = 2) -> OpenAITeacher:
    return OpenAITeacher([plain(double, max_retries) for double in doubles], concurrency=4)


def ask(
    twin: TorchModel, source: OpenAITeacher, asked: Sequence[Span], k: int = K, draws: int = 0
) -> dict[int, Targets]:
    found = source.targets(asked, k=k, draws=draws, seeds=[0] * len(asked), open_model=lambda: twin)
    return dict(found)


class Spoiled(Endpoint):
    """An endpoint whose rows are changed on their way: for what the double never says."""

    def __init__(self, double: Double, spoil: Callable[[Rows], object], after: int = 0) -> None:
        super().__init__(
            "tiny-chat",
            double.url,
            "OPENAI_API_KEY",
            gate=Gate(),
            timeout=5.0,
            max_retries=0,
            connections=4,
        )
        self._spoil, self._after = spoil, after

    def complete(self, prompt: Sequence[int], body: Mapping[str, Any]) -> str:
        text = super().complete(prompt, body)
        if self.asked != self._after + 1:
            return text
        found = json.loads(text)
        choice = found["choices"][0]
        changed = self._spoil(choice["prompt_logprobs"])
        choice["prompt_logprobs"] = choice["prompt_logprobs"] if changed is None else changed
        return json.dumps(found)


@pytest.fixture(scope="module")
def double() -> Iterator[Double]:
    with serving() as double:
        yield double


def test_the_top_k_is_that_of_the_same_model_here(twin: TorchModel, double: Double) -> None:
    asked = spans(twin)
    there = ask(twin, teacher(double), asked)
    here = dict(twin.top_k(asked, k=K, draws=0, seeds=[0] * 4))
    assert set(there) == set(here)
    for index, span in enumerate(asked):
        assert torch.equal(there[index].ids, here[index].ids)
        torch.testing.assert_close(there[index].logprobs, here[index].logprobs, rtol=0, atol=1e-5)
        assert there[index].logprobs.dtype == torch.float32
        for part in (there[index].drawn_ids, there[index].drawn_measure):
            assert part.shape == (span.n_response, 0)


def test_one_request_a_conversation_and_one_token_of_answer(
    twin: TorchModel, double: Double
) -> None:
    asked, before = spans(twin), double.meter
    ask(twin, teacher(double), asked)
    after = double.meter
    assert after.answered - before.answered == 4
    read = after.prompt_tokens - before.prompt_tokens
    assert read == sum(len(span.tokens) for span in asked)
    assert after.completion_tokens - before.completion_tokens == 4


def test_the_shortest_goes_first_and_alone(twin: TorchModel, double: Double) -> None:
    asked = spans(twin)
    found = teacher(double).targets(asked, k=K, draws=0, seeds=[0] * 4, open_model=lambda: twin)
    before = double.meter.requests
    index, _ = next(found)
    assert index == min(range(4), key=lambda i: len(asked[i].tokens))
    assert double.meter.requests == before + 1
    assert len(list(found)) == 3


def test_several_endpoints_share_the_conversations(twin: TorchModel, double: Double) -> None:
    with serving() as other:
        assert set(ask(twin, teacher(other, double), spans(twin))) == {0, 1, 2, 3}
        assert other.meter.answered == 1 + 2  # the probe, and every other one of the rest


def test_nothing_is_asked_about_nothing(twin: TorchModel, double: Double) -> None:
    before = double.meter.requests
    assert ask(twin, teacher(double), []) == {}
    assert double.meter.requests == before


@pytest.mark.parametrize("temperature", [0.7, 1.0])
def test_the_responses_own_token_stands_for_the_tail(
    twin: TorchModel, double: Double, temperature: float
) -> None:
    """Its weight is p_1 / p_T: at 1 exactly 1, and else as near as the top K tells."""
    span = replace(spans(twin)[0], temperature=temperature)
    (targets,) = ask(twin, teacher(double), [span], k=20, draws=4).values()
    (logprobs,) = twin.logprobs([span])
    response = torch.tensor(span.tokens[-span.n_response :]).unsqueeze(1)
    assert torch.equal(targets.drawn_ids, response)
    torch.testing.assert_close(targets.drawn_logprobs, logprobs.gather(1, response))
    beside = ~(response == targets.ids).any(dim=1)
    assert beside.any()
    assert not beside.all()
    exact = logprobs - (logprobs / temperature).log_softmax(dim=1)
    weight = targets.drawn_measure * targets.drawn_logprobs.exp()
    expected = exact.gather(1, response).exp() * beside.unsqueeze(1)
    torch.testing.assert_close(weight, expected, rtol=1e-4 if temperature == 1 else 0.1, atol=0)


def test_the_draw_is_unbiased_at_temperature_1() -> None:
    """Over every token that might have been drawn, by its probability: the tail's exact sum."""
    vocabulary, k = 12, 4
    generator = torch.Generator().manual_seed(0)
    row = torch.randn(vocabulary, generator=generator, dtype=torch.float64).log_softmax(0)
    values = torch.randn(vocabulary, generator=generator, dtype=torch.float64)
    top = row.topk(k)
    span = Span((0, *range(vocabulary)), vocabulary)
    tops = top.values.repeat(vocabulary, 1)
    drawn = outside(top.indices.repeat(vocabulary, 1), *realised_draw(span, row, tops))
    ids, logprobs, measure = (part.squeeze(1) for part in drawn)
    expectation = (logprobs.exp() * measure * values[ids]).sum()
    tail = torch.ones(vocabulary, dtype=torch.bool)
    tail[top.indices] = False
    torch.testing.assert_close(expectation, values[tail].sum())


def test_a_token_that_the_model_never_says_is_no_draw() -> None:
    span = Span((0, 1), 1, "conversation c", 1.0)
    with pytest.raises(BakeError, match=r"conversation c: has a token .* set train\.tail=bucket"):
        realised_draw(span, torch.tensor([-30.0]), torch.tensor([[-0.1]]))


def cut(rows: Rows) -> Rows:
    return rows[:-1]


def shift(rows: Rows) -> Rows:
    return [*rows[1:], rows[1]]


def unscore(rows: Rows) -> None:
    last = rows[-1] or {}
    next(iter(last.values()))["logprob"] = -9999.0


def empty(rows: Rows) -> None:
    last = rows[-1] or {}
    next(iter(last.values()))["logprob"] = None


def drop(rows: Rows) -> None:
    rows[-1] = None


def raise_to_logits(rows: Rows) -> None:
    for row in rows:
        for entry in (row or {}).values():
            entry["logprob"] += 9.0


def untold(rows: Rows) -> None:
    for row in rows:
        for entry in (row or {}).values():
            entry["decoded_token"] = None


@pytest.mark.parametrize(
    ("spoil", "says"),
    [
        (cut, r"gives \d+ rows of prompt_logprobs for \d+ tokens"),
        (shift, "does not score token"),
        (drop, "does not score token"),
        (unscore, "gives no log-probability of a token"),
        (empty, "gives no log-probability of a token"),
        (raise_to_logits, "no log-probabilities; .*--logprobs-mode raw_logprobs"),
        (untold, "gives no decoded_token"),
        (lambda _: {}, "gives no prompt_logprobs; teacher.source = 'openai' needs"),
    ],
)
def test_a_bad_answer_names_whose_it_is_and_loses_no_other(
    twin: TorchModel, double: Double, spoil: Callable[[Rows], object], says: str
) -> None:
    asked, found = spans(twin), []
    source = OpenAITeacher([Spoiled(double, spoil, after=1)], concurrency=1)

    def go() -> None:
        answers = source.targets(asked, k=K, draws=1, seeds=[0] * 4, open_model=lambda: twin)
        for index, _ in answers:
            found.append(index)

    with pytest.raises(BakeError, match=f"^1 of 4 .* conversation c0: .*{says}.*asks for these"):
        go()
    assert sorted(found) == [1, 2, 3]
    # And where it is the first answer already, nothing else is asked.
    before = double.meter.requests
    with pytest.raises(BakeError, match=f"^conversation c3: .*{says}"):
        ask(twin, OpenAITeacher([Spoiled(double, spoil)], concurrency=1), asked)
    assert double.meter.requests == before + 1


def test_fewer_than_k_are_refused(twin: TorchModel, double: Double) -> None:
    """Also where the prompt's own token stands in for the last of them."""

    def leave_out(rows: Rows) -> None:
        for row in rows:
            for token, entry in list((row or {}).items()):
                if entry["rank"] == K:
                    entry["rank"] = 99 if row and token == next(iter(row)) else K
                    if row and token != next(iter(row)):
                        del row[token]

    with pytest.raises(BakeError, match=rf"top_k = {K}: .* gives {K - 1} log-prob.*; lower it"):
        ask(twin, OpenAITeacher([Spoiled(double, leave_out)], concurrency=1), spans(twin))


def test_more_than_the_endpoint_allows_is_refused_with_what_to_do(
    twin: TorchModel, double: Double
) -> None:
    before = double.meter.requests
    with pytest.raises(BakeError, match=r"greater than max allowed: 20; .*--max-logprobs.* = 21"):
        ask(twin, teacher(double), spans(twin), k=21)
    assert double.meter.requests == before + 1


def test_an_endpoint_that_scores_nothing_is_refused_with_what_to_do(twin: TorchModel) -> None:
    with serving(None) as chat, pytest.raises(BakeError, match="needs an endpoint that returns"):
        ask(twin, teacher(chat), spans(twin))


def test_an_endpoint_without_a_key_is_not_asked(twin: TorchModel, double: Double) -> None:
    source = OpenAITeacher(
        [
            Endpoint(
                "m", double.url, "NO_SUCH_KEY", gate=Gate(), timeout=1, max_retries=0, connections=1
            )
        ],
        concurrency=1,
    )
    with pytest.raises(BakeError, match=r"^NO_SUCH_KEY: is not set"):
        ask(twin, source, spans(twin))


@pytest.mark.parametrize(
    ("decode", "says"),
    [
        (lambda token: decoded(token + 1), r"token \d+ is 'H' to the student and 'I' to"),
        (lambda token: decoded(token).upper(), "is 'm' to the student and 'M' to"),
        (lambda token: " " + decoded(token), "is 'H' to the student and ' H' to"),
        (lambda token: "<x>" if token > 255 else decoded(token), "'' to the student and '<x>'"),
        (lambda _: "", "is 'H' to the student and '' to"),
    ],
    ids=["shifted", "another case", "spaced", "another end", "silent"],
)
def test_another_tokenizer_is_refused_before_the_others_are_asked(
    twin: TorchModel, decode: Callable[[int], str], says: str
) -> None:
    with serving(decode=decode) as other:
        with pytest.raises(TokenizerError, match=f"conversation c3: .*{says}.*is another one"):
            ask(twin, teacher(other), spans(twin))
        assert other.meter.requests == 1


def test_a_tokenizer_that_agrees_on_the_response_alone_is_another_one(twin: TorchModel) -> None:
    same = {token for span in spans(twin) for token in span.tokens[-span.n_response :]}
    with serving(decode=lambda token: decoded(token) if token in same else "#") as other:
        with pytest.raises(TokenizerError, match=r"conversation c3: .* and '#' to"):
            ask(twin, teacher(other), spans(twin))
        assert other.meter.requests == 1


def test_a_tokenizer_that_turns_out_to_be_another_one_ends_it(
    twin: TorchModel, double: Double
) -> None:
    def rename(rows: Rows) -> None:
        next(iter((rows[-3] or {}).values()))["decoded_token"] = "?"

    source = OpenAITeacher([Spoiled(double, rename, after=1)], concurrency=1)
    before = double.meter.requests
    with pytest.raises(TokenizerError, match="conversation c0"):
        ask(twin, source, spans(twin))
    assert double.meter.requests == before + 2


# The bytes of these characters are tokens of their own; an endpoint may say so in several ways.
@pytest.mark.parametrize(
    "texts",
    [
        [
            "a",
            "\ufffd",
            "\ufffd",
            "\ufffd",
            "\ufffd",
            "\ufffd",
            "\ufffd",
            "\ufffd",
            "b",
            "<|im_end|>",
        ],
        ["a", "", "", "√", "", "", "", "😀", "b", "<|im_end|>"],
        ["a", "", "", "", "", "", "", "", "b", ""],
    ],
    ids=["alone", "with the last", "left out"],
)
def test_parts_of_characters_are_compared_as_far_as_they_are_told(
    twin: TorchModel, texts: list[str]
) -> None:
    response = twin.renderer.response("a√😀b", True)
    span = Span(twin.renderer.prompt((Message("user", "?"),)) + response, len(response))
    vocabulary = Vocabulary(twin)
    assert [vocabulary.telling(token) for token in response] == [True, *[False] * 7, True, False]
    vocabulary.check(span, texts, "here")
    for at, text in [
        (0, "\ufffd"),
        (0, ""),
        (3, "π"),
        (3, "a"),
        (7, "😁"),
        (8, "\ufffd"),
        (9, "b"),
    ]:
        spoiled = [*texts[:at], text, *texts[at + 1 :]]
        with pytest.raises(TokenizerError, match=f"token {response[at]} is"):
            vocabulary.check(span, spoiled, "here")


class Leading:
    """Drops the space before a text's first word, as SentencePiece's tokenizers do."""

    def text(self, tokens: Sequence[int]) -> str:
        return "".join({1: " on", 2: "ly"}[token] for token in tokens).removeprefix(" ")


def test_a_leading_space_may_be_dropped_or_not() -> None:
    model: Any = SimpleNamespace(name="m", renderer=Leading())
    span = Span((2, 1, 2), 2)
    for text in ("on", " on"):
        Vocabulary(model).check(span, [text, "ly"], "here")
    for text in ("  on", "o"):
        with pytest.raises(TokenizerError):
            Vocabulary(model).check(span, [text, "ly"], "here")


class Spelling(Leading):
    """Reads no special tokens in a text, as tinker-cookbook's renderers; token 3 is one."""

    def text(self, tokens: Sequence[int]) -> str:
        return super().text([token for token in tokens if token != 3])

    def response(self, text: str, complete: bool) -> tuple[int, ...]:
        return (*map(ord, text), *([3] if complete else []))


def test_a_renderer_that_spells_out_special_tokens_takes_what_looks_like_one() -> None:
    model: Any = SimpleNamespace(name="m", renderer=Spelling())
    span = Span((2, 1, 3), 2)
    for text in ("<|im_end|>", "</s>", "[/INST]", ""):
        Vocabulary(model).check(span, ["on", text], "here")
    for text in ("ly", "<", " <|im_end|>"):
        with pytest.raises(TokenizerError, match="token 3 is"):
            Vocabulary(model).check(span, ["on", text], "here")


def test_responses_that_can_not_be_compared_are_refused(twin: TorchModel, double: Double) -> None:
    response = twin.renderer.response("√", True)
    span = Span(twin.renderer.prompt((Message("user", "?"),)) + response, len(response))
    with pytest.raises(BakeError, match=r"cannot be compared .* use teacher\.source = 'self'"):
        ask(twin, teacher(double), [span])


def test_passing_faults_are_survived(twin: TorchModel) -> None:
    kinds = ["429", "500", "reset", "drop", "truncated", "no_choices", "error_body", "html"]
    script = [None, *kinds[:4], None, None, *kinds[4:], None, "wrong_type"]
    with serving(script=script, retry_after=0.05) as flaky:
        source = teacher(flaky, max_retries=6)
        found = ask(twin, source, spans(twin) * 2)
        assert set(found) == set(range(8))
        struck = {kind for _, kind in flaky.meter.struck}
    assert struck == {*kinds, "wrong_type"}


def test_an_answer_that_never_becomes_one_is_told(twin: TorchModel) -> None:
    with serving() as broken:
        broken.inject("error_body", times=99)
        with pytest.raises(BakeError, match=r"answered with no choices.*Provider returned error"):
            ask(twin, teacher(broken), spans(twin))
        assert broken.meter.requests == 5


@pytest.mark.parametrize(
    ("kind", "times", "says", "requests"),
    [
        ("401", 99, "OPENAI_API_KEY: .* refuses it.*the same command goes on", 2),
        ("500", 1, "^1 of 8 conversations were not scored, .* The server had an error", 8),
        ("500", 99, "had an error.*what was answered is kept", 1 + 5),
    ],
)
def test_what_lasts_ends_it_and_what_passes_does_not(
    twin: TorchModel, kind: str, times: int, says: str, requests: int
) -> None:
    with serving() as flaky:
        flaky.inject(kind, times=times, after=1)
        with pytest.raises(BakeError, match=says):
            ask(twin, OpenAITeacher([plain(flaky)], concurrency=1), spans(twin) * 2)
        assert flaky.meter.requests == requests


def test_failures_that_are_not_in_a_row_end_nothing(twin: TorchModel) -> None:
    with serving(script=[None, *(["500"] * 4), None, *(["500"] * 4), None]) as flaky:
        with pytest.raises(BakeError, match=r"^8 of 12 conversations were not scored"):
            ask(twin, OpenAITeacher([plain(flaky)], concurrency=1), spans(twin) * 3)
        assert flaky.meter.requests == 12


def session(folder: Path, twin: TorchModel, double: Double) -> Session:
    backend = SimpleNamespace(name="twin", open_model=lambda name, budget: twin)
    offers = (
        Offer("teachers", "openai", "test", "1", lambda: teacher(double)),
        Offer("backends", "twin", "test", "1", lambda: backend),
    )
    chosen = ("teacher.source=openai", "train.backend=twin", f"teacher.top_k={K}")
    resolved = resolve("mock", settings=chosen)
    return Session(PROMPT, resolved, Run(folder), Registry(offers), SilentReporter())


def test_the_store_asks_once(tmp_path: Path, twin: TorchModel) -> None:
    objective = TailedLoss(ForwardKL(), "sampled")
    with serving() as endpoint:
        some, all_of_them = datums(twin)[:3], datums(twin)
        first = ask_teacher(session(tmp_path, twin, endpoint), objective, some)
        assert endpoint.meter.requests == 3
        second = ask_teacher(session(tmp_path, twin, endpoint), objective, all_of_them)
        assert endpoint.meter.requests == 4
        assert endpoint.meter.repeats == 0
    for one, other in zip(first, second, strict=False):
        assert torch.equal(one.columns.ids, other.columns.ids)
        assert torch.equal(one.columns.measure, other.columns.measure)
    for example in second:
        assert example.columns.ids.shape == (example.datum.n_response, K + 1)
        assert torch.equal(example.columns.ids[:, -1], torch.tensor(example.datum.response_ids))
