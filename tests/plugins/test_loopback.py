"""The fake Tinker service under the real SDK, where the tests of `tinker` would not notice a fault.

They hold its gradients, AdamW, samples, scores and exports against torch and transformers
(test_tinker_*), and every count of its meter against one by hand (test_bench_tinker).
"""

from __future__ import annotations

import os
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
import tinker
import torch
from tinker import types
from torch import Tensor

from promptbake.testing import tiny_tokenizer
from promptbake_loopback.child import ChildServer
from promptbake_loopback.openai import KEY as CHAT_KEY
from promptbake_loopback.openai import ChatEndpoint
from promptbake_loopback.tinker import KEY, TinkerLoopback
from promptbake_loopback.tinker.engine import MAX_SLOTS

TEXT = "What is a tide, and who sends it?"
IDS = tuple(tiny_tokenizer().encode(TEXT))
ONE = types.SamplingParams(max_tokens=1)
LONG = 120.0  # seconds that no answer takes


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[TinkerLoopback]:
    with (
        pytest.MonkeyPatch.context() as patch,
        TinkerLoopback("tiny", state=tmp_path_factory.mktemp("loopback")) as running,
    ):
        patch.setenv("TINKER_TELEMETRY", "0")
        yield running


@pytest.fixture(scope="module")
def service(server: TinkerLoopback) -> Iterator[tinker.ServiceClient]:
    with tinker.ServiceClient(base_url=server.url, api_key=KEY) as client:
        yield client


def new_model(service: tinker.ServiceClient, **options: Any) -> tinker.TrainingClient:
    given = {"rank": 4, "seed": 5, "train_unembed": False} | options
    return service.create_lora_training_client("tiny", **given).result()


def base(service: tinker.ServiceClient) -> tinker.SamplingClient:
    return service.create_sampling_client(base_model="tiny").result()


def prompt(text: str = TEXT) -> types.ModelInput:
    return types.ModelInput.from_ints(tiny_tokenizer().encode(text))


def datum(
    tokens: Any = IDS[:6], targets: Any = IDS[1:7], weights: Tensor | None = None
) -> types.Datum:
    given = torch.tensor(targets)
    weights = torch.ones(given.shape) if weights is None else weights
    inputs = {"target_tokens": given, "weights": weights}
    return types.Datum(
        model_input=types.ModelInput.from_ints(list(tokens)),
        loss_fn_inputs={k: types.TensorData.from_torch(v) for k, v in inputs.items()},
    )


def trained(model: tinker.TrainingClient) -> None:
    model.forward_backward([datum()], "cross_entropy")
    model.optim_step(types.AdamParams(learning_rate=0.03)).result(LONG)


def loss(model: tinker.TrainingClient) -> float:
    return model.forward([datum()], "cross_entropy").result(LONG).metrics["loss:sum"]


def test_chunks_are_executed_in_their_order(
    server: TinkerLoopback, service: tinker.ServiceClient
) -> None:
    """The SDK sends the second one first."""
    training = new_model(service)
    data = [datum([65, 66], [66, 40 + row % 80]) for row in range(1030)]
    found = training.forward(data, "cross_entropy").result(LONG).loss_fn_outputs
    ours = [key for key in server.meter.executed if key.startswith(f"{training.model_id}:")]
    assert ours[-2:] == [f"{training.model_id}:1", f"{training.model_id}:2"]
    single = training.forward([data[1], data[1029]], "cross_entropy").result(LONG)
    for index, row in zip((1, 1029), single.loss_fn_outputs, strict=True):
        torch.testing.assert_close(found[index]["logprobs"].to_torch(), row["logprobs"].to_torch())


def test_a_stop_ends_the_sequence_and_is_in_it(service: tinker.ServiceClient) -> None:
    def sampled(stop: list[int]) -> types.SampledSequence:
        params = types.SamplingParams(max_tokens=30, seed=8, stop=stop)
        return base(service).sample(prompt(), 1, params).result().sequences[0]

    tokens = sampled([]).tokens
    assert len(tokens) == 30
    at = next(index for index in range(3, 30) if tokens[index] not in tokens[:index])
    stopped = sampled([tokens[at]])
    assert (stopped.tokens, stopped.stop_reason) == (tokens[: at + 1], "stop")


@pytest.mark.parametrize(
    ("params", "message"),
    [
        ({"max_tokens": 1, "top_p": 0.9}, "whole distribution"),
        ({"max_tokens": 1, "top_k": 5}, "whole distribution"),
        ({"max_tokens": 1, "stop": ["."]}, "token ids only"),
        ({"max_tokens": 2048}, "do not fit"),
    ],
)
def test_samples_that_are_refused(
    service: tinker.ServiceClient, params: dict[str, Any], message: str
) -> None:
    with pytest.raises(tinker.BadRequestError, match=message):
        base(service).sample(prompt(), 1, types.SamplingParams(**params)).result()


ABC, LENGTHY = [65, 66, 67], [65] * 2049


@pytest.mark.parametrize(
    ("bad", "loss_fn", "message"),
    [
        (datum(ABC, [66, 67]), "cross_entropy", r"\[2\], expected"),
        (datum(ABC, ABC, torch.ones(3, 1)), "cross_entropy", "weights"),
        (datum(ABC, [66, 67, 258]), "cross_entropy", "token 258"),
        (datum(ABC, [66, -1, 67]), "cross_entropy", "token -1"),
        (datum(ABC, ABC), "ppo", "'cross_entropy' only"),
        (datum(LENGTHY, LENGTHY), "cross_entropy", "2049"),
        (None, "", "no gradient"),
    ],
)
def test_what_is_wrong_with_data_is_the_users_error_and_fails_all_behind_it(
    server: TinkerLoopback,
    service: tinker.ServiceClient,
    bad: types.Datum | None,
    loss_fn: Any,
    message: str,
) -> None:
    training = new_model(service)
    before = server.meter
    futures: list[Any] = [training.forward_backward([bad], loss_fn)] if bad else []
    futures += [training.optim_step(types.AdamParams()), training.save_state("next")]
    says = [(message, "User"), *[("an earlier operation", "Server")] * (len(futures) - 1)]
    for future, (text, category) in zip(futures, says, strict=True):
        with pytest.raises(tinker.RequestFailedError, match=text) as caught:
            future.result(LONG)
        assert caught.value.category.name == category
    assert server.meter.executed == before.executed


def test_what_the_prefix_cache_has(server: TinkerLoopback, service: tinker.ServiceClient) -> None:
    """As much as an earlier prompt shares, up to the first position that is scored."""
    before = server.meter
    client, text, n = base(service), TEXT[::-1], len(IDS)
    cells = torch.full((n + 1, 1), -1)
    cells[n, 0] = 65
    asked: list[tuple[str, dict[str, Any], int]] = [
        ("", {}, 0),
        ("", {}, n),
        ("??", {}, n),
        ("!!", {"include_prompt_logprobs": True}, 0),
        ("!!", {"include_prompt_logprobs": True, "prompt_logprobs_last_n": 5}, n - 3),
        ("!?", {"prompt_alt_tokens_k": 1}, 0),
        ("!!", {"target_prompt_logprobs": types.TensorData.from_torch_sparse(cells, -1)}, n + 1),
    ]
    for more, options, hit in asked:
        found = client.sample(prompt(text + more), 1, ONE, **options).result()
        assert found.prompt_cache_hit_tokens == hit
    sampler = new_model(service).save_weights_and_get_sampling_client().result()
    assert sampler.sample(prompt(text), 1, ONE).result().prompt_cache_hit_tokens == 0
    after, hits = server.meter, sum(hit for _, _, hit in asked)
    assert after.cached_prefill_tokens - before.cached_prefill_tokens == hits
    assert after.prefill_tokens - before.prefill_tokens == 8 * n + 5 * 2 - hits
    assert (after.saves - before.saves, after.models_created - before.models_created) == (1, 1)


def test_models_of_many_shapes_share_the_base(service: tinker.ServiceClient) -> None:
    bare = base(service).compute_logprobs(prompt()).result()
    models = [new_model(service, rank=1 + rank) for rank in range(MAX_SLOTS + 2)]
    models.append(new_model(service, train_attn=False, train_unembed=True))
    untrained = [loss(model) for model in models]
    assert len(set(untrained)) == 1
    for model in models[::2]:
        trained(model)
    after = [loss(model) for model in models]
    assert after[1::2] == untrained[1::2]
    assert len(set(after[::2])) == len(after[::2])
    assert base(service).compute_logprobs(prompt()).result() == bare


@pytest.mark.usefixtures("server")
def test_what_is_saved_outlives_the_server_until_it_expires(tmp_path: Path) -> None:
    now = [1e9]
    with TinkerLoopback(state=tmp_path, clock=lambda: now[0]) as old:
        service = tinker.ServiceClient(base_url=old.url, api_key=KEY)
        training = new_model(service)
        trained(training)
        state = training.save_state("name", ttl_seconds=3600).result()
        with pytest.raises(tinker.RequestFailedError, match="exists"):
            training.save_state("name").result()
        with pytest.raises(tinker.RequestFailedError, match="letters"):
            training.save_state("../name").result()
        kept = training.save_weights_for_sampler("kept").result().path
        expected = loss(training)  # a save that is refused breaks nothing
        sampling = service.create_sampling_client(model_path=kept).result()
        scores = sampling.compute_logprobs(prompt()).result()
    port = int(old.url.rpartition(":")[2])
    left, live_elsewhere = tmp_path / "runs" / ".a-1.partial", tmp_path / ".b-1.partial"
    for partial in (left, live_elsewhere):
        partial.mkdir()
    os.utime(left, (1, 1))
    with TinkerLoopback(state=tmp_path, clock=lambda: now[0], port=port), service:
        assert (left.exists(), live_elsewhere.exists()) == (False, True)
        again = service.create_training_client_from_state_with_optimizer(state.path).result()
        assert loss(again) == expected
        assert sampling.compute_logprobs(prompt()).result() == scores
        with pytest.raises(tinker.NotFoundError, match="load a checkpoint"):
            training.optim_step(types.AdamParams()).result(LONG)
        now[0] += 3600
        assert sampling.compute_logprobs(prompt()).result() == scores
        with pytest.raises(tinker.RequestFailedError, match="expired"):
            service.create_training_client_from_state(state.path).result()
        with pytest.raises(tinker.RequestFailedError, match="an hour"):
            again.save_state("hasty", ttl_seconds=60).result()


@pytest.mark.parametrize("kind", ["429", "500", "502", "503", "dropped_early", "dropped"])
def test_what_is_sent_again_is_executed_once(
    server: TinkerLoopback, service: tinker.ServiceClient, kind: str
) -> None:
    training, before = new_model(service), server.meter
    for endpoint in ("forward_backward", "optim_step", "retrieve_future"):
        server.inject_fault(kind, endpoint)
    trained(training)
    after = server.meter
    for endpoint in ("forward_backward", "optim_step"):
        assert after.requests[endpoint] - before.requests.get(endpoint, 0) == 2
    assert len(after.executed) - len(before.executed) == 2
    assert set(after.executed.values()) == {1}


def test_a_slow_answer_and_a_page_of_html(
    server: TinkerLoopback, service: tinker.ServiceClient
) -> None:
    sampling, begin = base(service), time.monotonic()
    server.inject_fault("slow", "asample", seconds=0.4)
    sampling.sample(prompt(), 1, ONE).result(LONG)
    assert time.monotonic() - begin > 0.4
    server.inject_fault("garbage", "asample")
    with pytest.raises(tinker.APIResponseValidationError, match="text/html"):
        sampling.sample(prompt(), 1, ONE).result(LONG)


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        ({"kind": "flood"}, "no fault is called flood; choose from: .*429"),
        ({"kind": "429", "times": 0}, "times"),
        ({"kind": "429", "after": -1}, "after"),
        ({"kind": "slow", "seconds": -1.0}, "seconds"),
    ],
)
def test_a_fault_that_cannot_happen_is_refused(
    server: TinkerLoopback, arguments: dict[str, Any], says: str
) -> None:
    for each in (server, ChatEndpoint()):
        with pytest.raises(ValueError, match=says):
            each.inject_fault(**arguments)


@pytest.mark.parametrize(
    ("command", "path", "key"),
    [
        (["openai", "--model", "a"], "/v1/models", {"Authorization": f"Bearer {CHAT_KEY}"}),
        (["tinker", "--state"], "/api/v1/healthz", {"X-API-Key": KEY}),
    ],
    ids=["openai", "tinker"],
)
def test_a_process_of_its_own(
    tmp_path: Path, command: list[str], path: str, key: dict[str, str]
) -> None:
    folder = [str(tmp_path)] if command[-1] == "--state" else []
    child = ChildServer(*command, *folder, subject="it")
    with httpx.Client(base_url=child.url.removesuffix("/v1"), verify=False) as client:
        assert client.get(path).status_code == 401
        assert client.get(path, headers=key).status_code == 200
        assert "Invalid URL (GET /nothing)" in client.get("/nothing", headers=key).text
        for fault, status in (({"kind": "503"}, 200), ({"kind": "504"}, 400), ({"what": 1}, 400)):
            assert client.post("/loopback/faults", json=fault).status_code == status
        assert client.post("/loopback/faults", content=b"[").status_code == 400
        assert "requests" in client.get("/loopback/meter").json()
        child.check_alive()
        child.close()
        with pytest.raises(httpx.ConnectError):
            client.get(path)
