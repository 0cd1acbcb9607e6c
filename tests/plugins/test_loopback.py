"""The loopback server under the real SDK, against plain transformers, peft and torch."""

from __future__ import annotations

import urllib.request
from pathlib import Path
from typing import Any

import peft
import pytest
import tinker
import torch
from tinker import types
from tinker_client import (
    RANK,
    TEXT,
    base,
    datum,
    ids,
    logprobs,
    new_model,
    prompt,
    random_datum,
    reference,
    rest,
    saved,
    trained,
)

from promptbake.testing.tiny import tiny_model, tiny_tokenizer
from promptbake_loopback.tinker import KEY, Meter, TinkerLoopback
from promptbake_loopback.tinker.engine import MAX_SLOTS

pytestmark = pytest.mark.usefixtures("no_telemetry")
LONG = 120.0  # seconds that no answer takes


def test_the_server_says_what_it_serves(server: TinkerLoopback) -> None:
    (model,) = rest(server).get_server_capabilities().result().supported_models
    assert model.model_name == "tiny"
    assert model.max_context_length == 2048
    assert model.trainable
    assert model.sampleable


def test_another_key_is_refused(server: TinkerLoopback) -> None:
    request = urllib.request.Request(f"{server.url}/api/v1/healthz", headers={"X-API-Key": "sk-1"})
    with pytest.raises(urllib.error.HTTPError) as caught:
        urllib.request.urlopen(request)
    assert caught.value.code == 401
    caught.value.close()


@torch.no_grad()
def test_forward_agrees_with_a_plain_forward_pass(
    service: tinker.ServiceClient, state: Path
) -> None:
    training = new_model(service)
    trained(training)
    model = reference(saved(state, training.save_state("plain").result().path))
    rows = [random_datum(TEXT[: 5 + 3 * (row % 7)], row % 4, row) for row in range(21)]
    rows = [random_datum(TEXT[:9], 1 + index % 3, index) for index in range(2)] + rows[1::4]
    flat = ids(TEXT)
    data = [row[0] for row in rows]
    data.append(datum(flat, torch.tensor(flat), torch.ones(len(flat))))
    found = training.forward(data, "cross_entropy").result()
    loss = 0.0
    for (asked, targets, weights), output in zip(rows, found.loss_fn_outputs, strict=False):
        expected = logprobs(model, asked.model_input.to_ints()).gather(1, targets)
        actual = output["logprobs"].to_torch()
        torch.testing.assert_close(actual, expected)
        loss -= float((expected * weights).sum())
    last = found.loss_fn_outputs[-1]["logprobs"].to_torch()
    assert last.shape == (len(flat),)
    loss -= float(logprobs(model, flat).gather(1, torch.tensor(flat).unsqueeze(1)).sum())
    assert found.metrics == {"loss:sum": pytest.approx(loss, rel=1e-5)}


def test_gradient_and_adam_are_torchs(service: tinker.ServiceClient, state: Path) -> None:
    training = new_model(service)
    assert training.get_info().lora_rank == RANK
    assert training.get_tokenizer().encode(TEXT) == ids(TEXT)
    start = saved(state, training.save_state("start").result().path)
    model = reference(start)
    parameters = [value for value in model.parameters() if value.requires_grad]
    for value in parameters:
        value.requires_grad_(True)
    settings = [  # a large eps: the step then shows the gradient's size, not its sign only
        types.AdamParams(learning_rate=0.5, eps=1.0, weight_decay=0.1),
        types.AdamParams(learning_rate=0.2, beta1=0.7, beta2=0.8, eps=0.5, grad_clip_norm=0.01),
    ]
    adam = torch.optim.AdamW(parameters)
    for step, params in enumerate(settings):
        for half in range(2):  # gradients add up until the step
            asked, targets, weights = random_datum(TEXT, 5, 10 * step + half)
            training.forward_backward([asked], "cross_entropy")
            scores = logprobs(model, asked.model_input.to_ints()).gather(1, targets)
            (-scores * weights).sum().backward()  # type: ignore[no-untyped-call]
        training.optim_step(params)
        if params.grad_clip_norm:
            torch.nn.utils.clip_grad_norm_(parameters, params.grad_clip_norm)
        adam.param_groups[0].update(
            lr=params.learning_rate,
            betas=(params.beta1, params.beta2),
            eps=params.eps,
            weight_decay=params.weight_decay,
        )
        adam.step()
        adam.zero_grad()
    found = saved(state, training.save_state("end").result().path)
    expected = peft.get_peft_model_state_dict(model)
    for name, value in expected.items():
        torch.testing.assert_close(found[name], value, rtol=1e-3, atol=1e-5)
    assert max(float((found[name] - start[name]).abs().max()) for name in start) > 0.01


def test_sparse_tensors_are_dense_ones(service: tinker.ServiceClient) -> None:
    tokens = ids(TEXT)
    targets = torch.zeros(len(tokens), 6, dtype=torch.long)
    weights = torch.zeros(len(tokens), 6)
    targets[3, :2], weights[3, :2] = torch.tensor([65, 66]), torch.tensor([0.5, -0.25])
    targets[9, 4], weights[9, 4] = 70, 2.0
    sparse = types.Datum(
        model_input=types.ModelInput.from_ints(tokens),
        loss_fn_inputs={
            "target_tokens": types.TensorData.from_torch_sparse(targets),
            "weights": types.TensorData.from_torch_sparse(weights),
        },
    )
    training = new_model(service)
    one = training.forward([sparse], "cross_entropy")
    other = training.forward([datum(tokens, targets, weights)], "cross_entropy")
    assert one.result().metrics == other.result().metrics
    assert one.result().loss_fn_outputs[0]["logprobs"].shape == [len(tokens), 6]


def test_weights_that_are_left_out_are_ones(service: tinker.ServiceClient) -> None:
    training = new_model(service)
    tokens = torch.tensor(ids(TEXT))
    without = training.forward([datum(ids(TEXT), tokens, None)], "cross_entropy")
    ones = datum(ids(TEXT), tokens, torch.ones(len(tokens)))
    assert without.result().metrics == training.forward([ones], "cross_entropy").result().metrics


def test_chunks_are_executed_in_their_order(
    server: TinkerLoopback, service: tinker.ServiceClient
) -> None:
    training = new_model(service)
    data = [
        datum([65, 66], torch.tensor([66, 40 + row % 80]), torch.ones(2)) for row in range(1030)
    ]
    found = training.forward_backward(data, "cross_entropy").result()
    ours = [key for name, key in server.requests if key.startswith(f"{training.model_id}:")]
    assert ours[-2:] == [f"{training.model_id}:2", f"{training.model_id}:1"]
    single = training.forward([data[1], data[1029]], "cross_entropy").result()
    for index, row in zip((1, 1029), single.loss_fn_outputs, strict=True):
        torch.testing.assert_close(
            found.loss_fn_outputs[index]["logprobs"].to_torch(), row["logprobs"].to_torch()
        )


@torch.no_grad()
def test_sampled_logprobs_are_the_models(service: tinker.ServiceClient) -> None:
    params = types.SamplingParams(max_tokens=12, temperature=0.5, seed=1, stop=[])
    found = base(service).sample(prompt(), 3, params, topk_sample_logprobs=4).result()
    assert len({sequence.sequence_id for sequence in found.sequences}) == 3
    assert len({tuple(sequence.tokens) for sequence in found.sequences}) > 1
    model = tiny_model()
    for sequence in found.sequences:
        scores = logprobs(model, ids(TEXT) + sequence.tokens)[len(ids(TEXT)) - 1 : -1]
        chosen = scores.gather(1, torch.tensor(sequence.tokens).unsqueeze(1)).squeeze(1)
        torch.testing.assert_close(torch.tensor(sequence.logprobs), chosen)
        assert sequence.topk_logprobs is not None
        top = scores.topk(4, dim=1)
        torch.testing.assert_close(
            torch.tensor([[pair[1] for pair in row or []] for row in sequence.topk_logprobs]),
            top.values,
        )


def test_a_stop_ends_the_sequence_and_is_in_it(service: tinker.ServiceClient) -> None:
    client = base(service)

    def sampled(stop: Any) -> types.SampledSequence:
        params = types.SamplingParams(max_tokens=30, seed=8, stop=stop)
        return client.sample(prompt(), 1, params).result().sequences[0]

    tokens = sampled([]).tokens
    assert len(tokens) == 30
    at = next(index for index in range(3, 30) if tokens[index] not in tokens[:index])
    by_token = sampled([tokens[at]])
    assert (by_token.tokens, by_token.stop_reason) == (tokens[: at + 1], "stop")
    text = tiny_tokenizer().decode(tokens[at - 1 : at + 1])
    by_text = sampled(text)
    assert tiny_tokenizer().decode(by_text.tokens).endswith(text)
    assert by_text.stop_reason == "stop"
    assert sampled([text]).tokens == by_text.tokens


@torch.no_grad()
def test_what_is_asked_of_a_prompt(service: tinker.ServiceClient) -> None:
    tokens = ids(TEXT)
    length = len(tokens)
    scores = logprobs(tiny_model(), tokens)
    cells = torch.full((length - 1, 3), -1)
    cells[4, 0], cells[4, 2], cells[7, 1] = 65, 66, 67
    params = types.SamplingParams(max_tokens=1, seed=1, temperature=0.5)
    found = (
        base(service)
        .sample(
            prompt(),
            1,
            params,
            include_prompt_logprobs=True,
            topk_prompt_logprobs=5,
            target_prompt_logprobs=types.TensorData.from_torch(cells),
            prompt_alt_tokens_k=6,
        )
        .result()
    )
    given = torch.tensor(tokens[1:]).unsqueeze(1)
    assert found.prompt_logprobs is not None
    assert found.prompt_logprobs[0] is None
    torch.testing.assert_close(
        torch.tensor(found.prompt_logprobs[1:]), scores[:-1].gather(1, given).squeeze(1)
    )
    assert found.topk_prompt_logprobs is not None
    assert found.topk_prompt_logprobs[0] is None
    top = scores[:-1].topk(5, dim=1)
    rows = [row or [] for row in found.topk_prompt_logprobs[1:]]
    assert [[pair[0] for pair in row] for row in rows] == top.indices.tolist()
    torch.testing.assert_close(torch.tensor([[p[1] for p in row] for row in rows]), top.values)
    assert found.target_prompt_logprobs is not None
    asked = cells >= 0
    at = found.target_prompt_logprobs.to_torch()
    torch.testing.assert_close(at[asked], scores[:-1].gather(1, cells.clamp(min=0))[asked])
    assert not at[~asked].any()
    assert found.prompt_alt_tokens is not None
    drawn = found.prompt_alt_tokens.tokens.to_torch()
    torch.testing.assert_close(
        found.prompt_alt_tokens.logprobs.to_torch(), scores[:-1].gather(1, drawn)
    )


def test_a_table_needs_prompt_logprobs_and_a_limit(service: tinker.ServiceClient) -> None:
    client = base(service)
    one = types.SamplingParams(max_tokens=1)
    assert (
        client.sample(prompt(), 1, one, topk_prompt_logprobs=5).result().topk_prompt_logprobs
        is None
    )
    wide = client.sample(prompt(), 1, one, True, topk_prompt_logprobs=200).result()
    assert wide.topk_prompt_logprobs_np is not None
    assert wide.topk_prompt_logprobs_np.token_ids.shape == (len(ids(TEXT)), 200)
    long = types.SamplingParams(max_tokens=50)
    with pytest.raises(tinker.BadRequestError, match="<= 20"):
        client.sample(prompt(), 1, long, True, topk_prompt_logprobs=21).result()


@pytest.mark.parametrize(
    ("params", "message"),
    [
        ({"max_tokens": 1, "top_p": 0.9}, "whole distribution"),
        ({"max_tokens": 1, "top_k": 5}, "whole distribution"),
        ({"max_tokens": 2048}, "do not fit"),
    ],
)
def test_samples_that_are_refused(
    service: tinker.ServiceClient, params: dict[str, Any], message: str
) -> None:
    with pytest.raises(tinker.BadRequestError, match=message):
        base(service).sample(prompt(), 1, types.SamplingParams(**params)).result()


TOKENS = [65, 66, 67]
ONES = torch.ones(3)


@pytest.mark.parametrize(
    ("bad", "loss", "message"),
    [
        (datum(TOKENS, torch.tensor([66, 67]), torch.ones(2)), "cross_entropy", r"\[2\], expected"),
        (datum(TOKENS, torch.tensor(TOKENS), torch.ones(3, 1)), "cross_entropy", "weights"),
        (datum(TOKENS, torch.tensor([66, 67, 258]), ONES), "cross_entropy", "token 258"),
        (datum(TOKENS, torch.tensor([66, -1, 67]), ONES), "cross_entropy", "token -1"),
        (datum(TOKENS, torch.tensor(TOKENS), ONES), "ppo", "'cross_entropy' only"),
        (datum([65] * 2049, torch.full((2049,), 65), torch.ones(2049)), "cross_entropy", "2049"),
    ],
)
def test_what_is_wrong_with_data_is_the_users_error(
    server: TinkerLoopback, service: tinker.ServiceClient, bad: types.Datum, loss: Any, message: str
) -> None:
    training = new_model(service)
    before = server.meter
    refused = training.forward_backward([bad], loss)
    step = training.optim_step(types.AdamParams())
    with pytest.raises(tinker.RequestFailedError, match=message) as caught:
        refused.result(LONG)
    assert caught.value.category == types.RequestErrorCategory.User
    with pytest.raises(tinker.RequestFailedError, match="an earlier operation") as caught:
        step.result(LONG)
    assert caught.value.category == types.RequestErrorCategory.Server
    assert executions(server.meter) == executions(before)
    assert server.meter.optim_steps == before.optim_steps


def executions(meter: Meter) -> int:
    assert set(meter.executed.values()) <= {1}
    return len(meter.executed)


def test_a_step_needs_a_gradient(service: tinker.ServiceClient) -> None:
    with pytest.raises(tinker.RequestFailedError, match="no gradient"):
        new_model(service).optim_step(types.AdamParams()).result(LONG)


def test_the_meter(tmp_path: Path) -> None:
    with (
        TinkerLoopback("tiny", state=tmp_path) as server,
        tinker.ServiceClient(base_url=server.url, api_key=KEY) as service,
    ):
        client = base(service)
        text, n = TEXT, len(ids(TEXT))
        one = types.SamplingParams(max_tokens=1)
        cells = torch.full((n + 1, 1), -1)
        cells[n, 0] = 65
        asked: list[tuple[str, dict[str, Any], int]] = [
            (text, {}, 0),
            (text, {}, n),
            (text + "??", {}, n),
            (text + "!!", {"include_prompt_logprobs": True}, 0),
            (text + "!!", {"include_prompt_logprobs": True, "prompt_logprobs_last_n": 5}, n - 3),
            (text + "!?", {"prompt_alt_tokens_k": 1}, 0),
            (text + "!!", {"target_prompt_logprobs": types.TensorData.from_torch(cells)}, n + 1),
        ]
        for what, options, hit in asked:
            assert (
                client.sample(prompt(what), 1, one, **options).result().prompt_cache_hit_tokens
                == hit
            )
        client.sample(prompt("Q"), 3, one).result()
        training = new_model(service)
        trained(training, steps=2)
        training.forward([random_datum(TEXT, 2, 0)[0]] * 2, "cross_entropy").result()
        sampling = training.save_weights_and_get_sampling_client().result()
        assert sampling.sample(prompt(), 1, one).result().prompt_cache_hit_tokens == 0
        meter = server.meter
        assert executions(meter) == len(asked) + 1 + 1 + 4 + 1 + 1 + 1
        hits = sum(hit for _, _, hit in asked)
        tokens = sum(len(what) for what, _, _ in asked) + len(TEXT) + 1
        assert meter == Meter(
            sample_calls=len(asked) + 2,
            prefill_tokens=tokens - hits,
            cached_prefill_tokens=hits + 2,
            sampled_tokens=len(asked) + 1 + 3,
            forward_calls=1,
            forward_tokens=2 * n,
            forward_backward_calls=2,
            trained_tokens=2 * n,
            datums=4,
            optim_steps=2,
            saves=1,
            models_created=1,
            requests=meter.requests,
            executed=meter.executed,
        )
        assert meter.passes == 6 * n
        assert meter.requests["asample"] == len(asked) + 2
        assert meter.requests["forward"] == 1


def test_models_of_many_shapes_share_the_base(service: tinker.ServiceClient) -> None:
    bare = base(service).compute_logprobs(prompt()).result()
    asked = [random_datum(TEXT, 2, 0)[0]]
    models = [new_model(service, rank=1 + rank) for rank in range(MAX_SLOTS + 2)]
    models.append(new_model(service, train_attn=False, train_unembed=True))
    untrained = [model.forward(asked, "cross_entropy").result().metrics for model in models]
    assert all(one == untrained[0] for one in untrained)
    for model in models[::2]:
        trained(model)
    after = [model.forward(asked, "cross_entropy").result().metrics for model in models]
    assert after[1::2] == untrained[1::2]
    assert len({one["loss:sum"] for one in after[::2]}) == len(after[::2])
    assert base(service).compute_logprobs(prompt()).result() == bare


def test_another_model_is_refused(service: tinker.ServiceClient) -> None:
    with pytest.raises(tinker.BadRequestError, match="'tiny' only"):
        service.create_lora_training_client("Qwen/Qwen3-8B").result()
    with pytest.raises(tinker.BadRequestError, match="'tiny' only"):
        service.create_sampling_client(base_model="Qwen/Qwen3-8B").result()
