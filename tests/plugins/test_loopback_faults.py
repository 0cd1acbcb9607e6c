"""What the real SDK makes of everything that can go wrong with a service."""

from __future__ import annotations

import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import tinker
import torch
from tinker import types

from promptbake_loopback.tinker import KEY, TinkerLoopback

pytest_plugins = ["promptbake_loopback.fixtures"]
PROMPT = types.ModelInput.from_ints([72, 101, 108, 108, 111])
ONE = types.SamplingParams(max_tokens=1)
LONG = 60.0  # seconds that no answer takes


@pytest.fixture
def service(
    tinker_loopback: TinkerLoopback, monkeypatch: pytest.MonkeyPatch
) -> Iterator[tinker.ServiceClient]:
    monkeypatch.setenv("TINKER_TELEMETRY", "0")
    with tinker.ServiceClient(base_url=tinker_loopback.url, api_key=KEY) as client:
        yield client


@pytest.fixture
def sampling(service: tinker.ServiceClient) -> tinker.SamplingClient:
    return service.create_sampling_client(base_model="tiny").result()


@pytest.fixture
def training(service: tinker.ServiceClient) -> tinker.TrainingClient:
    return service.create_lora_training_client("tiny", rank=2, seed=1).result()


def datum() -> types.Datum:
    return types.Datum(
        model_input=PROMPT,
        loss_fn_inputs={
            "target_tokens": types.TensorData.from_torch(torch.tensor([[65, 66]] * 5)),
            "weights": types.TensorData.from_torch(torch.full((5, 2), 0.5)),
        },
    )


def nothing_twice(server: TinkerLoopback) -> None:
    assert set(server.meter.executed.values()) == {1}


def test_samples_survive(tinker_loopback: TinkerLoopback, sampling: tinker.SamplingClient) -> None:
    kinds = ["429", "500", "502", "503", "402", "dropped_early", "dropped"]
    for kind in kinds:
        tinker_loopback.inject_fault(kind, "asample")
    futures = [sampling.sample(PROMPT, 1, ONE) for _ in kinds]
    assert all(len(future.result(LONG).sequences) == 1 for future in futures)
    assert tinker_loopback.meter.requests["asample"] == 2 * len(kinds)
    assert tinker_loopback.meter.sample_calls == len(kinds)
    nothing_twice(tinker_loopback)
    assert len(tinker_loopback.requests) == len(kinds) + 1  # one was dropped when it was served


def test_training_survives(tinker_loopback: TinkerLoopback, service: tinker.ServiceClient) -> None:
    kinds = ["429", "503", "dropped_early", "dropped"]
    models = [service.create_lora_training_client("tiny", rank=2).result() for _ in kinds]
    for kind in kinds:
        tinker_loopback.inject_fault(kind, "forward_backward")
        tinker_loopback.inject_fault(kind, "optim_step")
    gradients = [model.forward_backward([datum()], "cross_entropy") for model in models]
    steps = [model.optim_step(types.AdamParams()) for model in models]
    for gradient, step in zip(gradients, steps, strict=True):
        gradient.result(LONG)
        step.result(LONG)
    meter = tinker_loopback.meter
    assert (meter.requests["forward_backward"], meter.requests["optim_step"]) == (8, 8)
    assert (meter.forward_backward_calls, meter.optim_steps, meter.trained_tokens) == (4, 4, 20)
    nothing_twice(tinker_loopback)


def test_polling_survives(tinker_loopback: TinkerLoopback, sampling: tinker.SamplingClient) -> None:
    kinds = ["429", "500", "dropped", "slow"]
    for kind in kinds:
        tinker_loopback.inject_fault(kind, "retrieve_future")
    futures = [sampling.sample(PROMPT, 1, ONE) for _ in kinds]
    assert all(future.result(LONG) for future in futures)
    # The slow answer comes in the end; each of the others costs one more request.
    assert tinker_loopback.meter.requests["retrieve_future"] == 7
    tinker_loopback.inject_fault("try_again", "asample")
    assert sampling.sample(PROMPT, 1, ONE).result(LONG)
    assert tinker_loopback.meter.requests["retrieve_future"] == 9
    nothing_twice(tinker_loopback)


def test_a_fault_waits_for_its_turn(
    tinker_loopback: TinkerLoopback, sampling: tinker.SamplingClient
) -> None:
    tinker_loopback.inject_fault("slow", "asample", after=1, seconds=0.4)
    took = []
    for _ in range(3):
        begin = time.monotonic()
        sampling.sample(PROMPT, 1, ONE).result(LONG)
        took.append(time.monotonic() - begin)
    assert took[1] > 0.4 > max(took[0], took[2])


@pytest.mark.parametrize(("kind", "category"), [("failed", "Server"), ("failed_user", "User")])
def test_a_failed_operation_fails_all_behind_it(
    tinker_loopback: TinkerLoopback,
    service: tinker.ServiceClient,
    training: tinker.TrainingClient,
    kind: str,
    category: str,
) -> None:
    kept = training.save_state("kept").result().path
    before = tinker_loopback.meter
    tinker_loopback.inject_fault(kind, "forward_backward")
    futures = [
        training.forward_backward([datum()], "cross_entropy"),
        training.optim_step(types.AdamParams()),
        training.save_state("next"),
    ]
    categories = []
    for future in futures:
        with pytest.raises(tinker.RequestFailedError) as caught:
            future.result(LONG)
        categories.append(caught.value.category.name)
    assert categories == [category, "Server", "Server"]
    assert tinker_loopback.meter.executed == before.executed
    again = service.create_training_client_from_state_with_optimizer(kept).result()
    again.forward_backward([datum()], "cross_entropy")
    again.optim_step(types.AdamParams()).result(LONG)


def test_a_failed_sample_harms_no_other(
    tinker_loopback: TinkerLoopback, sampling: tinker.SamplingClient
) -> None:
    tinker_loopback.inject_fault("failed", "asample")
    with pytest.raises(tinker.RequestFailedError, match="ordered to fail"):
        sampling.sample(PROMPT, 1, ONE).result(LONG)
    assert sampling.sample(PROMPT, 1, ONE).result(LONG)
    assert tinker_loopback.meter.sample_calls == 1


def test_no_money_for_a_model(
    tinker_loopback: TinkerLoopback, service: tinker.ServiceClient
) -> None:
    service.create_sampling_client(base_model="tiny").result()
    tinker_loopback.inject_fault("402", "create_model")
    with pytest.raises(tinker.APIStatusError, match="402"):
        service.create_lora_training_client("tiny").result(LONG)


def test_garbage(tinker_loopback: TinkerLoopback, sampling: tinker.SamplingClient) -> None:
    tinker_loopback.inject_fault("garbage", "asample")
    with pytest.raises(tinker.APIResponseValidationError, match="text/html"):
        sampling.sample(PROMPT, 1, ONE).result(LONG)
    tinker_loopback.inject_fault("garbage", "retrieve_future")
    with pytest.raises(ValueError, match="JSON"):
        sampling.sample(PROMPT, 1, ONE).result(LONG)


def test_answers_that_lack_something(
    tinker_loopback: TinkerLoopback, sampling: tinker.SamplingClient
) -> None:
    def asked(**options: Any) -> types.SampleResponse:
        return sampling.sample(
            PROMPT, 1, ONE, include_prompt_logprobs=True, topk_prompt_logprobs=3, **options
        ).result(LONG)

    tinker_loopback.inject_fault("short", "asample")
    found = asked()
    assert found.prompt_logprobs is not None
    assert found.topk_prompt_logprobs is not None
    assert len(found.prompt_logprobs) == len(found.topk_prompt_logprobs) == 4
    tinker_loopback.inject_fault("no_topk", "any")
    found = asked()
    assert found.topk_prompt_logprobs is None
    assert found.prompt_logprobs is not None
    assert len(found.prompt_logprobs) == 5
    tinker_loopback.inject_fault("no_alt", "asample")
    with pytest.raises(RuntimeError, match="no prompt_alt_tokens"):
        asked(prompt_alt_tokens_k=2)
    assert asked(prompt_alt_tokens_k=2).prompt_alt_tokens is not None


def test_a_server_that_knows_no_k(
    tinker_loopback: TinkerLoopback, training: tinker.TrainingClient
) -> None:
    good = training.forward([datum()], "cross_entropy").result(LONG)
    tinker_loopback.inject_fault("no_k", "forward")
    bad = training.forward([datum()], "cross_entropy").result(LONG)
    table = good.loss_fn_outputs[0]["logprobs"].to_torch()
    assert table.shape == (5, 2)
    assert torch.equal(bad.loss_fn_outputs[0]["logprobs"].to_torch(), table[:, 0])


def test_the_server_is_gone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Training models live as long as the server; what is left says so."""
    monkeypatch.setenv("TINKER_TELEMETRY", "0")
    with TinkerLoopback("tiny", state=tmp_path) as server:
        port = int(server.url.rpartition(":")[2])
        service = tinker.ServiceClient(base_url=server.url, api_key=KEY)
        training = service.create_lora_training_client("tiny", rank=2).result()
        sampling = training.save_weights_and_get_sampling_client().result()
        expected = sampling.compute_logprobs(PROMPT).result(LONG)
    with TinkerLoopback("tiny", state=tmp_path, port=port), service:
        assert sampling.compute_logprobs(PROMPT).result(LONG) == expected
        with pytest.raises(tinker.NotFoundError, match="load a checkpoint"):
            training.optim_step(types.AdamParams()).result(LONG)
