"""What the real SDK makes of what can go wrong with a service; tests/end_to_end has the rest."""

from __future__ import annotations

import time
from collections.abc import Iterator
from pathlib import Path

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


def datum() -> types.Datum:
    return types.Datum(
        model_input=PROMPT,
        loss_fn_inputs={
            "target_tokens": types.TensorData.from_torch(torch.tensor([[65, 66]] * 5)),
            "weights": types.TensorData.from_torch(torch.full((5, 2), 0.5)),
        },
    )


def test_each_operation_is_executed_once_however_often_it_is_sent(
    tinker_loopback: TinkerLoopback, service: tinker.ServiceClient
) -> None:
    kinds = ["429", "503", "dropped_early", "dropped"]
    models = [service.create_lora_training_client("tiny", rank=2).result() for _ in kinds]
    for kind in kinds:
        for endpoint in ("forward_backward", "optim_step", "retrieve_future"):
            tinker_loopback.inject_fault(kind, endpoint)
    gradients = [model.forward_backward([datum()], "cross_entropy") for model in models]
    steps = [model.optim_step(types.AdamParams()) for model in models]
    for gradient, step in zip(gradients, steps, strict=True):
        gradient.result(LONG)
        step.result(LONG)
    meter = tinker_loopback.meter
    assert (meter.requests["forward_backward"], meter.requests["optim_step"]) == (8, 8)
    assert (meter.forward_backward_calls, meter.optim_steps, meter.trained_tokens) == (4, 4, 20)
    assert set(meter.executed.values()) == {1}
    # What was dropped when it had been served was submitted twice.
    assert len(tinker_loopback.requests) == 4 + 2 * 4 + 2


def test_a_fault_waits_for_its_turn(
    tinker_loopback: TinkerLoopback, service: tinker.ServiceClient
) -> None:
    sampling = service.create_sampling_client(base_model="tiny").result()
    tinker_loopback.inject_fault("slow", "asample", after=1, seconds=0.4)
    took = []
    for _ in range(3):
        begin = time.monotonic()
        sampling.sample(PROMPT, 1, ONE).result(LONG)
        took.append(time.monotonic() - begin)
    assert took[1] > 0.4 > max(took[0], took[2])


@pytest.mark.parametrize(("kind", "category"), [("failed", "Server"), ("failed_user", "User")])
def test_a_failed_operation_fails_all_behind_it(
    tinker_loopback: TinkerLoopback, service: tinker.ServiceClient, kind: str, category: str
) -> None:
    training = service.create_lora_training_client("tiny", rank=2, seed=1).result()
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
