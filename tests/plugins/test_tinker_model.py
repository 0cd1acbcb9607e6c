"""Sampling and scoring through Tinker, beside the same model on this machine."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from fake_openai import PROMPT, datums
from fake_tinker import opened, serving

from promptbake.costs import NoBudget, SampleWork, TopKWork, TrainWork, Usage
from promptbake.distill.objective import TailedLoss, full_kl, rest
from promptbake.errors import BakeError
from promptbake.testing import save_tiny
from promptbake.types import Span, TokenIds
from promptbake_loopback.tinker import TinkerLoopback
from promptbake_losses.divergences import ForwardKL
from promptbake_tinker import Settings, TinkerBackend
from promptbake_tinker.latency import LatencyModel
from promptbake_tinker.model import TinkerModel
from promptbake_torch.model import TorchModel

K = 6


@pytest.fixture
def model(server: TinkerLoopback) -> Iterator[TinkerModel]:
    with opened(server) as model:
        yield model


def spans(model: Any) -> list[Span]:
    return [datum.teacher for datum in datums(model)]


def prompts(model: Any) -> list[TokenIds]:
    return [datum.teacher_ids[: -datum.n_response] for datum in datums(model)]


def test_a_tokenizers_own_code_is_not_run(tmp_path: Path) -> None:
    folder = save_tiny(tmp_path / "model")
    (folder / "evil.py").write_text(f"open({str(tmp_path / 'ran')!r}, 'w')")
    config = json.loads((folder / "tokenizer_config.json").read_bytes())
    config |= {"tokenizer_class": "Evil", "auto_map": {"AutoTokenizer": ["evil.Evil", "evil.Evil"]}}
    (folder / "tokenizer_config.json").write_text(json.dumps(config))
    with suppress(BakeError):
        TinkerBackend(Settings(renderer="chat_template")).open_model(str(folder), NoBudget())
    assert not (tmp_path / "ran").exists()


def test_samples_are_those_of_the_same_model_here(model: TinkerModel, twin: TorchModel) -> None:
    how = {"max_tokens": 12, "temperatures": [0.0, 0.5, 1.0, 1.3], "seeds": [1, 2, 3, 4]}
    there = dict(model.sample(prompts(model), **how))
    here = dict(twin.sample(prompts(twin), **how))
    assert there == here


def test_the_top_k_is_that_of_the_same_model_here(model: TinkerModel, twin: TorchModel) -> None:
    scored = spans(model)
    there = dict(model.top_k(scored, k=K, draws=0, seeds=[0] * 4))
    here = dict(twin.top_k(scored, k=K, draws=0, seeds=[0] * 4))
    for index in range(4):
        assert torch.equal(there[index].ids, here[index].ids)
        torch.testing.assert_close(there[index].logprobs, here[index].logprobs, rtol=0, atol=1e-4)
        assert there[index].drawn_ids.shape == (scored[index].n_response, 0)


def test_given_tokens_are_scored_at_the_response(model: TinkerModel, twin: TorchModel) -> None:
    scored = spans(model)
    ids = [torch.randint(256, (span.n_response, 3)) for span in scored]
    there = list(model.logprobs(scored, ids))
    for remote, expected in zip(there, twin.logprobs(scored, ids), strict=True):
        torch.testing.assert_close(remote, expected, rtol=0, atol=1e-4)
    with pytest.raises(ValueError, match="given token ids only"):
        list(model.logprobs(scored))


@pytest.mark.parametrize(("k", "by_forward"), [(8, False), (40, True)])
def test_more_ids_than_the_service_accepts_are_scored_all_the_same(
    tmp_path: Path, twin: TorchModel, k: int, by_forward: bool
) -> None:
    with serving(tmp_path) as server, opened(server) as model:
        check_scores(server, model, twin, k, by_forward)


def check_scores(
    server: TinkerLoopback, model: TinkerModel, twin: TorchModel, k: int, by_forward: bool
) -> None:
    scored = spans(model)
    generator = torch.Generator().manual_seed(k)
    ids = [torch.randint(256, (span.n_response, k), generator=generator) for span in scored]
    server.inject_fault("bounded_ids", "asample", times=60)
    before = server.meter
    for _ in range(2):
        for there, here in zip(
            model.logprobs(scored, ids), twin.logprobs(scored, ids), strict=True
        ):
            torch.testing.assert_close(there, here, rtol=0, atol=1e-4)
    assert model.base.scores_by_forward == by_forward
    calls = server.meter.sample_calls - before.sample_calls
    assert calls < 8 if by_forward else 2 * len(scored) < calls <= 2 * 8 * len(scored)
    assert server.meter.forward_calls - before.forward_calls == 2 * by_forward
    if not by_forward:  # what is known to be refused is not sent again
        asked = server.meter.requests["asample"] - before.requests.get("asample", 0)
        refused = asked - calls
        assert refused <= 3


def test_draws_stand_for_the_tail_without_bias(model: TinkerModel, twin: TorchModel) -> None:
    """Averaged over many draws, the sampled loss is the full divergence of Eq. 3."""
    span = spans(model)[0]
    n_draws = 2_000
    ((_, scores),) = model.top_k([span], k=K, draws=n_draws, seeds=[7])
    (teacher,) = twin.logprobs([span])
    mass = (scores.drawn_importance_weights * scores.drawn_logprobs.exp()).sum(dim=1)
    torch.testing.assert_close(mass, rest(scores.logprobs).exp().squeeze(1), rtol=0, atol=0.05)
    inside = (scores.drawn_ids.unsqueeze(2) == scores.ids.unsqueeze(1)).any(dim=2)
    assert inside.any()
    assert torch.equal(scores.drawn_importance_weights == 0, inside)
    student = torch.randn(teacher.shape, generator=torch.Generator().manual_seed(0)).log_softmax(1)
    objective = TailedLoss(ForwardKL(), "sampled")
    support = objective.support(datums(model)[0], scores)
    sampled = objective.nats(student.gather(1, support.ids), support).mean()
    assert float(sampled) == pytest.approx(float(full_kl(teacher, student).mean()), rel=0.03)


def test_only_the_response_is_scored_and_the_prompt_comes_from_the_cache(
    server: TinkerLoopback, model: TinkerModel
) -> None:
    span = spans(model)[0]
    list(model.top_k([span], k=2, draws=0, seeds=[0]))
    before = server.meter
    list(model.top_k([span], k=2, draws=0, seeds=[0]))
    after = server.meter
    cached = after.cached_prefill_tokens - before.cached_prefill_tokens
    assert cached >= len(span.tokens) - span.n_response - 1


@pytest.mark.parametrize(
    ("fault", "says"),
    [("short", "topk_prompt_logprobs"), ("no_topk", "nothing as topk_prompt_logprobs")],
)
def test_a_faulty_answer_is_named_and_the_others_are_kept(
    server: TinkerLoopback, model: TinkerModel, fault: str, says: str
) -> None:
    server.inject_fault(fault, "asample", after=1)
    scored = []

    def score() -> None:
        for index, _ in model.top_k(spans(model), k=2, draws=0, seeds=[0] * 4):
            scored.append(index)

    with pytest.raises(BakeError, match=f"conversation c.*{says}"):
        score()
    assert len(scored) == 3


def test_an_estimate_counts_the_tokens(server: TinkerLoopback) -> None:
    prices = {"prefill": 1.0, "sample": 2.0, "train": 3.0}
    with opened(server, prices=prices) as model:
        sample = model.estimate_cost(SampleWork(((10, 5), (12, 5)), shared=8)).usage
        assert replace(sample, dollars=0.0) == Usage(2, 14, 8, output_tokens=10)
        assert sample.dollars == pytest.approx((14 + 0.2 * 8 + 2 * 10) / 1e6)
        drawn = model.estimate_cost(TopKWork(((10, 5), (12, 5)), shared=8, draws=4)).usage
        assert (drawn.input_tokens, drawn.cached_input_tokens, drawn.output_tokens) == (22, 0, 2)
        train = model.estimate_cost(TrainWork(((10, 5), (12, 5)), times=3, steps=6)).usage
        assert (train.calls, train.train_tokens, train.input_tokens) == (6, 3 * 20, 0)
        custom_work = TrainWork(((10, 5),), steps=1, support=24, forward_first=True)
        custom = model.estimate_cost(custom_work).usage
        assert (custom.train_tokens, custom.input_tokens) == (9, 9)
        assert "service" not in vars(model.base)  # nothing was sent
    saving = TrainWork(((10, 5),), steps=6, saves=6)
    assert LatencyModel(10.0, 2.0, 0.02, save=5.0).seconds(saving, 64) == 6 * (10 + 5)
    with opened(server, prices=prices, datum_layout="per_token") as model:
        custom = model.estimate_cost(custom_work).usage
        assert (custom.train_tokens, custom.input_tokens) == (24 * 9, 24 * 9)


def test_the_context_is_the_services_less_what_scoring_samples(model: TinkerModel) -> None:
    assert model.context_tokens == 2048 - 1
    assert PROMPT.text not in model.digest
