"""The teacher `openai` against the double: what it asks, and what becomes of bad answers."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from openai_double import (
    PROMPT,
    K,
    Rows,
    Spoiled,
    ask,
    datums,
    plain,
    serving,
    spans,
    teacher,
    torch_twin,
)
from promptbake_openai.loopback import KEY
from promptbake_openai.loopback import Endpoint as Double

from promptbake.distill.objective import TailedLoss, mask_top_k_draws, response_token_as_draw
from promptbake.distill.target_store import ask_teacher
from promptbake.errors import BakeError
from promptbake.interfaces import Teacher
from promptbake.plugins.factories import PluginFactory
from promptbake.plugins.registry import Registry
from promptbake.progress import SilentReporter
from promptbake.runs.config import resolve
from promptbake.runs.run_folder import Run
from promptbake.runs.session import Session
from promptbake.testing import TeacherSuite
from promptbake.types import Span
from promptbake_losses.divergences import ForwardKL
from promptbake_openai import openai_teacher
from promptbake_openai.endpoint import Endpoint
from promptbake_openai.gate import Gate
from promptbake_openai.teacher import OpenAITeacher
from promptbake_torch.model import TorchModel


@pytest.fixture(scope="module", autouse=True)
def key() -> Iterator[None]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("OPENAI_API_KEY", KEY)
        yield


@pytest.fixture(scope="module")
def twin() -> TorchModel:
    return torch_twin()


@pytest.fixture(scope="module")
def double() -> Iterator[Double]:
    with serving() as double:
        yield double


class TestOpenAITeacher(TeacherSuite):
    draws_itself = False
    tolerance = 1e-4
    keys = ("OPENAI_API_KEY",)

    @pytest.fixture
    def teacher(self, double: Double) -> Teacher:
        return openai_teacher(model="tiny-chat", base_url=double.url, max_retries=0)


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


def test_with_many_of_the_top_k_a_weight_at_another_temperature_is_near(
    twin: TorchModel, double: Double
) -> None:
    """It is p_1 / p_T, as near as the top K tells."""
    temperature = 0.7
    span = replace(spans(twin)[0], temperature=temperature)
    (targets,) = ask(twin, teacher(double), [span], k=20, draws=4).values()
    (logprobs,) = twin.logprobs([span])
    response = torch.tensor(span.tokens[-span.n_response :]).unsqueeze(1)
    beside = ~(response == targets.ids).any(dim=1)
    assert beside.any()
    assert not beside.all()
    exact = logprobs - (logprobs / temperature).log_softmax(dim=1)
    weight = targets.drawn_importance_weights * targets.drawn_logprobs.exp()
    expected = exact.gather(1, response).exp() * beside.unsqueeze(1)
    torch.testing.assert_close(weight, expected, rtol=0.1, atol=0)


def test_the_draw_is_unbiased_at_temperature_1() -> None:
    """Over every token that might have been drawn, by its probability: the tail's exact sum."""
    vocabulary, k = 12, 4
    generator = torch.Generator().manual_seed(0)
    row = torch.randn(vocabulary, generator=generator, dtype=torch.float64).log_softmax(0)
    values = torch.randn(vocabulary, generator=generator, dtype=torch.float64)
    top = row.topk(k)
    span = Span((0, *range(vocabulary)), vocabulary)
    tops = top.values.repeat(vocabulary, 1)
    drawn = mask_top_k_draws(
        top.indices.repeat(vocabulary, 1), *response_token_as_draw(span, row, tops)
    )
    ids, logprobs, measure = (part.squeeze(1) for part in drawn)
    expectation = (logprobs.exp() * measure * values[ids]).sum()
    tail = torch.ones(vocabulary, dtype=torch.bool)
    tail[top.indices] = False
    torch.testing.assert_close(expectation, values[tail].sum())


def test_a_token_that_the_model_never_says_is_no_draw() -> None:
    span = Span((0, 1), 1, "conversation c", 1.0)
    with pytest.raises(BakeError, match=r"conversation c: has a token .* set train\.tail=bucket"):
        response_token_as_draw(span, torch.tensor([-30.0]), torch.tensor([[-0.1]]))


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
        PluginFactory("teachers", "openai", "test", "1", lambda: teacher(double)),
        PluginFactory("backends", "twin", "test", "1", lambda: backend),
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
