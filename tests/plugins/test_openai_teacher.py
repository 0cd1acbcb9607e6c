"""The teacher `openai` against a fake endpoint: its requests, and how bad responses are handled."""

from __future__ import annotations

from collections.abc import Callable

import pytest
from fake_openai import ChatEndpoint, K, Rows, score, serving, spans, teacher, torch_twin

from promptbake import BakeError, Teacher
from promptbake.testing import TeacherSuite
from promptbake_openai import Endpoint, OpenAITeacher, openai_teacher

pytestmark = pytest.mark.usefixtures("openai_key")


class TestOpenAITeacher(TeacherSuite):
    samples_tail = False
    tolerance = 1e-4
    keys = ("OPENAI_API_KEY",)

    @pytest.fixture
    def teacher(self, openai_key: str, endpoint: ChatEndpoint) -> Teacher:
        return openai_teacher(model="tiny-chat", base_url=endpoint.url, max_retries=0)


def test_a_conversation_takes_one_request_of_one_output_token(endpoint: ChatEndpoint) -> None:
    before = endpoint.meter
    score(teacher(endpoint))
    after = endpoint.meter
    assert after.answered - before.answered == 4
    input_tokens = after.prompt_tokens - before.prompt_tokens
    assert input_tokens == sum(len(span.tokens) for span in spans())
    assert after.completion_tokens - before.completion_tokens == 4


def test_the_shortest_is_requested_first_and_alone(endpoint: ChatEndpoint) -> None:
    wanted, before = spans(), endpoint.meter.requests
    results = teacher(endpoint).score(wanted, k=K, draws=0, seeds=[0] * 4, open_model=torch_twin)
    index, _ = next(results)
    assert index == min(range(4), key=lambda i: len(wanted[i].tokens))
    assert endpoint.meter.requests == before + 1
    assert len(list(results)) == 3


def test_several_endpoints_share_the_conversations(endpoint: ChatEndpoint) -> None:
    with serving() as other:
        assert set(score(teacher(other, endpoint))) == {0, 1, 2, 3}
        assert other.meter.answered == 1 + 2  # the probe, and every other one of the rest


def test_no_spans_take_no_request(endpoint: ChatEndpoint) -> None:
    before = endpoint.meter.requests
    assert score(teacher(endpoint), []) == {}
    assert endpoint.meter.requests == before


def set_last(rows: Rows, logprob: float | None) -> None:
    next(iter((rows[-1] or {}).values()))["logprob"] = logprob


def add_nats(rows: Rows) -> None:
    for row in rows:
        for entry in (row or {}).values():
            entry["logprob"] += 9.0


def remove_texts(rows: Rows) -> None:
    for row in rows:
        for entry in (row or {}).values():
            entry["decoded_token"] = None


@pytest.mark.parametrize(
    ("spoil", "reason"),
    [
        (lambda rows: rows[:-1], r"returns \d+ rows of prompt_logprobs for \d+ tokens"),
        (lambda rows: [*rows[1:], rows[1]], "does not score token"),
        (lambda rows: [*rows[:-1], None], "does not score token"),
        (lambda rows: set_last(rows, -9999.0), "returns no log-probability of a token"),
        (lambda rows: set_last(rows, None), "returns no log-probability of a token"),
        (add_nats, "no log-probabilities; .*--logprobs-mode raw_logprobs"),
        (remove_texts, "returns no decoded_token"),
        (lambda _: [], "returns 0 rows of prompt_logprobs"),
    ],
    ids=["cut", "shifted", "null", "-9999", "no logprob", "logits", "no text", "no rows"],
)
def test_a_bad_response_names_its_conversation_and_loses_no_other(
    endpoint: ChatEndpoint, spoil: Callable[[Rows], object], reason: str
) -> None:
    scored = list[int]()
    results = teacher(endpoint, spoil=spoil, after=1).score(
        spans(), k=K, draws=0, seeds=[0] * 4, open_model=torch_twin
    )
    with pytest.raises(BakeError, match=f"^1 of 4 .* conversation c0: .*{reason}.*to resume"):
        scored.extend(index for index, _ in results)
    assert sorted(scored) == [1, 2, 3]
    # Where it is the first response, nothing else is requested.
    before = endpoint.meter.requests
    with pytest.raises(BakeError, match=f"^conversation c3: .*{reason}"):
        score(teacher(endpoint, spoil=spoil))
    assert endpoint.meter.requests == before + 1


def test_fewer_than_k_are_refused(endpoint: ChatEndpoint) -> None:
    """Also where the prompt's own token is counted in place of the last of them."""

    def leave_out(rows: Rows) -> None:
        for row in filter(None, rows):
            own = next(iter(row))
            for token, entry in list(row.items()):
                if entry["rank"] == K and token == own:
                    entry["rank"] = 99
                elif entry["rank"] == K:
                    del row[token]

    message = rf"top_k = {K}: .* returns {K - 1} log-prob.*; lower it"
    with pytest.raises(BakeError, match=message):
        score(teacher(endpoint, spoil=leave_out))


def test_more_than_the_endpoint_allows_is_refused_with_what_to_do(endpoint: ChatEndpoint) -> None:
    before = endpoint.meter.requests
    with pytest.raises(BakeError, match=r"greater than max allowed: 20; .*--max-logprobs.* = 21"):
        score(teacher(endpoint), k=21)
    assert endpoint.meter.requests == before + 1


def test_an_endpoint_that_scores_nothing_is_refused_with_what_to_do() -> None:
    with serving(None) as chat, pytest.raises(BakeError, match="needs an endpoint that returns"):
        score(teacher(chat))


def test_without_a_key_nothing_is_requested(endpoint: ChatEndpoint) -> None:
    options = {"timeout": 1.0, "max_retries": 0, "connections": 1}
    source = OpenAITeacher([Endpoint("m", endpoint.url, "NO_SUCH_KEY", **options)], concurrency=1)
    with pytest.raises(BakeError, match=r"^NO_SUCH_KEY: is not set"):
        score(source)


def test_transient_faults_are_retried() -> None:
    kinds = ["429", "500", "reset", "drop", "truncated", "no_choices", "error_body", "html"]
    script = [None, *kinds[:4], None, None, *kinds[4:], None, "wrong_type"]
    with serving(script=script, retry_after=0.05) as flaky:
        scores = score(teacher(flaky, max_retries=6, concurrency=4), spans() * 2)
        injected = {kind for _, kind in flaky.meter.injected}
    assert set(scores) == set(range(8))
    assert injected == {*kinds, "wrong_type"}


def test_a_response_without_a_completion_is_given_up_after_five_attempts() -> None:
    with serving() as broken:
        broken.inject_fault("error_body", times=99)
        with pytest.raises(
            BakeError, match=r"responded with no completion.*Provider returned error"
        ):
            score(teacher(broken))
        assert broken.meter.requests == 5


@pytest.mark.parametrize(
    ("faults", "n_spans", "reason", "requests"),
    [
        (["401"] * 99, 8, "OPENAI_API_KEY: .* refuses it.*to resume", 2),
        (["500"], 8, "^1 of 8 conversations were not scored, .* The server had an error", 8),
        (["500"] * 99, 8, "^5 requests in a row failed, .* had an error.* are kept", 1 + 5),
        (
            [*["500"] * 4, None, *["500"] * 4, None],
            12,
            "^8 of 12 conversations were not scored",
            12,
        ),
    ],
    ids=["permanent", "once", "five in a row", "four in a row, twice"],
)
def test_only_lasting_failures_end_the_work(
    faults: list[str | None], n_spans: int, reason: str, requests: int
) -> None:
    with serving(script=[None, *faults]) as flaky:
        with pytest.raises(BakeError, match=reason):
            score(teacher(flaky), spans() * (n_spans // 4))
        assert flaky.meter.requests == requests
