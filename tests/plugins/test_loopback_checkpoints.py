"""The loopback server's checkpoints, samplers and exports, under the real SDK."""

from __future__ import annotations

import os
import urllib.request
from pathlib import Path

import peft
import pytest
import tinker
import torch
from tinker import types
from tinker_client import (
    RANK,
    TEXT,
    ids,
    logprobs,
    new_model,
    prompt,
    random_datum,
    rest,
    saved,
    trained,
)
from tinker_cookbook import weights as cookbook_weights

from promptbake.testing.tiny import save_tiny, tiny_model
from promptbake_loopback.tinker import KEY, TinkerLoopback

pytestmark = pytest.mark.usefixtures("no_telemetry")


def test_checkpoints_outlive_the_server(tmp_path: Path) -> None:
    asked = [random_datum(TEXT, 4, 1)[0]]
    with (
        TinkerLoopback("tiny", state=tmp_path) as server,
        tinker.ServiceClient(base_url=server.url, api_key=KEY) as service,
    ):
        training = new_model(service)
        trained(training, steps=2)
        kept = training.save_state("kept", user_metadata={"step": "2"}).result().path
        sampler = training.save_weights_for_sampler("sampler").result().path
        session = service.create_sampling_client(model_path=sampler).result()
        live = training.save_weights_and_get_sampling_client().result()
        expected = [live.compute_logprobs(prompt()).result()]
        expected.append(session.compute_logprobs(prompt()).result())
        assert expected[0] == expected[1]
        session_id = server.requests[-1][1].rpartition(":")[0]
        loss = training.forward(asked, "cross_entropy").result().metrics
        trained(training)
        last = training.forward(asked, "cross_entropy").result().metrics
    left, live_elsewhere = tmp_path / "runs" / ".a-1.partial", tmp_path / ".b-1.partial"
    for partial in (left, live_elsewhere):
        partial.mkdir()
    os.utime(left, (1, 1))
    with (
        TinkerLoopback("tiny", state=tmp_path) as server,
        tinker.ServiceClient(base_url=server.url, api_key=KEY) as service,
    ):
        assert (left.exists(), live_elsewhere.exists()) == (False, True)
        again = service.create_training_client_from_state_with_optimizer(kept).result()
        assert again.model_id != training.model_id
        assert again.forward(asked, "cross_entropy").result().metrics == loss
        trained(again)  # the same data: its seeds are the steps'
        sampling = service.create_sampling_client(model_path=sampler).result()
        assert sampling.compute_logprobs(prompt()).result() == expected[0]
        client = rest(server)
        assert [
            one.checkpoint_id
            for one in client.list_checkpoints(training.model_id).result().checkpoints
        ] == [
            "weights/kept",
            "sampler_weights/sampler",
        ]
        run = client.get_training_run_by_tinker_path(kept).result()
        assert run == client.get_training_run(training.model_id).result()
        assert (run.base_model, run.lora_rank) == ("tiny", RANK)
        assert run.last_checkpoint is not None
        assert run.last_checkpoint.user_metadata == {"step": "2"}
        assert client.get_weights_info_by_tinker_path(kept).result().train_unembed is False
        known = client.get_sampler(session_id).result()
        assert (known.base_model, known.model_path) == ("tiny", sampler)
        assert len(client.list_training_runs().result().training_runs) == 2
        assert len(client.list_user_checkpoints().result().checkpoints) == 2
        client.delete_checkpoint_from_tinker_path(sampler).result()
        client.delete_checkpoint(training.model_id, "weights/kept").result()
        assert client.list_checkpoints(training.model_id).result().checkpoints == []
        with pytest.raises(tinker.NotFoundError, match="no such checkpoint"):
            service.create_sampling_client(model_path=sampler).result()
        assert last != loss


def test_a_resumed_model_trains_as_if_it_had_not_stopped(
    service: tinker.ServiceClient, state: Path
) -> None:
    training = new_model(service)
    trained(training, steps=2)
    path = training.save_state("middle").result().path
    with_optimizer = service.create_training_client_from_state_with_optimizer(path).result()
    without = service.create_training_client_from_state(path).result()
    ends = []
    for client in (training, with_optimizer, without):
        trained(client)
        ends.append(saved(state, client.save_state("end").result().path))
    assert all(torch.equal(ends[0][name], ends[1][name]) for name in ends[0])
    assert not all(torch.equal(ends[0][name], ends[2][name]) for name in ends[0])


def test_a_name_is_taken_once(service: tinker.ServiceClient) -> None:
    training = new_model(service)
    first = training.save_state("name").result()
    with pytest.raises(tinker.RequestFailedError, match="exists") as caught:
        training.save_state("name").result()
    assert caught.value.category == types.RequestErrorCategory.User
    trained(training)  # a refused save breaks nothing
    assert training.save_state("name", overwrite=True).result() == first
    with pytest.raises(tinker.RequestFailedError, match="letters"):
        training.save_state("../name").result()


def test_checkpoints_expire(tmp_path: Path) -> None:
    now = [1e9]
    with (
        TinkerLoopback("tiny", state=tmp_path, clock=lambda: now[0]) as server,
        tinker.ServiceClient(base_url=server.url, api_key=KEY) as service,
    ):
        training = new_model(service)
        path = training.save_state("short", ttl_seconds=3600).result().path
        other = training.save_weights_for_sampler("longer", ttl_seconds=3600).result().path
        sampling = service.create_sampling_client(model_path=other).result()
        rest(server).set_checkpoint_ttl_from_tinker_path(other, 7200).result()
        now[0] += 3600
        with pytest.raises(tinker.RequestFailedError, match="expired"):
            service.create_training_client_from_state(path).result()
        assert sampling.compute_logprobs(prompt()).result()
        (left,) = rest(server).list_checkpoints(training.model_id).result().checkpoints
        assert left.expires_at is not None
        assert left.expires_at.timestamp() == 1e9 + 7200
        now[0] += 3600
        with pytest.raises(tinker.RequestFailedError, match="expired"):
            sampling.compute_logprobs(prompt()).result()
        with pytest.raises(tinker.RequestFailedError, match="an hour"):
            training.save_state("hasty", ttl_seconds=60).result()


@pytest.mark.filterwarnings("ignore:DEPRECATED. ServiceClient.create_rest_client:FutureWarning")
@pytest.mark.filterwarnings("ignore:Using the future as the TrainingClient:FutureWarning")
def test_an_export_is_the_adapter(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TINKER_API_KEY", KEY)
    folder = save_tiny(tmp_path / "model")
    with (
        TinkerLoopback(str(folder), state=tmp_path / "state") as server,
        tinker.ServiceClient(base_url=server.url, api_key=KEY) as service,
    ):
        training = service.create_lora_training_client(
            str(folder), rank=RANK, seed=1, train_unembed=True
        ).result()
        trained(training)
        path = training.save_state("final").result().path
        sampling = training.save_weights_and_get_sampling_client().result()
        expected = sampling.compute_logprobs(prompt()).result()
        cookbook_weights.download(
            tinker_path=path, output_dir=str(tmp_path / "down"), base_url=server.url
        )
        plain = training.save_weights_external("plain").result().path
        urls = rest(server).get_external_weights_urls(plain).result().urls
        for name, url in urls.items():
            with urllib.request.urlopen(url) as answer:
                assert answer.read() == (tmp_path / "down" / name).read_bytes()
    cookbook_weights.build_lora_adapter(
        base_model=str(folder),
        adapter_path=str(tmp_path / "down"),
        output_path=str(tmp_path / "peft"),
    )
    model = peft.PeftModel.from_pretrained(tiny_model(), str(tmp_path / "peft"))
    with torch.no_grad():
        scores = logprobs(model, ids(TEXT))[:-1]
    found = scores.gather(1, torch.tensor(ids(TEXT)[1:]).unsqueeze(1)).squeeze(1)
    torch.testing.assert_close(found, torch.tensor(expected[1:]))
