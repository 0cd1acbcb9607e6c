"""A run on Tinker that a kill, Ctrl-C or its budget stops ends as if it had not been stopped."""

from __future__ import annotations

import json
import shutil
import signal
from pathlib import Path

import pytest
from command import promptbake
from run_folder import record_as_baked, record_as_saved, settings
from tinker_run import HELD_OUT, STEPS, TinkerRun, Undisturbed, same_weights

from promptbake.errors import BakeError
from promptbake_loopback.child import ChildServer
from promptbake_loopback.tinker import KEY
from promptbake_tinker.service import close_all

PRICES = "options.backends.tinker.prices={prefill=1.0, sample=2.0, train=3.0}"


def n_scored(run: TinkerRun) -> int:
    return len(list((run.run / "teacher_logprobs").glob("*.safetensors")))


def n_steps(run: TinkerRun) -> int:
    return len(run.steps()) - 1 if (run.run / "metrics.jsonl").exists() else -1


@pytest.mark.parametrize("moment", ["teacher", *range(STEPS + 1)])
def test_a_bake_that_is_killed_ends_with_the_same_weights(
    on_tinker: TinkerRun, undisturbed: Undisturbed, moment: str | int
) -> None:
    on_tinker.start("bake").kill_when(
        lambda: n_scored(on_tinker) > 2 if moment == "teacher" else n_steps(on_tinker) == moment
    )
    on_tinker.finish("bake")
    assert on_tinker.steps() == list(range(STEPS + 1))
    assert on_tinker.server.meter.optim_steps <= STEPS + 2  # what was in flight is paid twice
    assert same_weights(on_tinker.weights(), undisturbed.weights)


def test_ctrl_c_leaves_a_run_that_resumes(on_tinker: TinkerRun, undisturbed: Undisturbed) -> None:
    process = on_tinker.start("bake")
    process.signal_when(lambda: n_steps(on_tinker) >= 1, signal.SIGINT)
    stopped = process.result()
    assert stopped.code == 130
    assert stopped.err.splitlines()[-1].startswith("stopped; run the same command to resume, or")
    on_tinker.finish("bake")
    assert same_weights(on_tinker.weights(), undisturbed.weights)


def dollars(run: TinkerRun) -> float:
    """What the meter says, at the prices of these tests."""
    meter = run.server.meter
    prefill = meter.prefill_tokens + 0.2 * meter.cached_prefill_tokens + meter.forward_tokens
    return (prefill + 2 * meter.sampled_tokens + 3 * meter.trained_tokens) / 1e6


def test_the_budget_is_never_passed_and_nothing_is_paid_for_twice(
    on_tinker: TinkerRun, undisturbed: Undisturbed
) -> None:
    stops = 0
    for number in range(1, 60):
        cap = f"budget.max_dollars={number * 0.0006:.4f}"
        result = on_tinker.do("bake", PRICES, cap)
        assert dollars(on_tinker) <= number * 0.0006
        if result.code == 0:
            break
        stops += 1
        close_all()
        assert on_tinker.server.outcomes[-1] == "interrupted"
        assert "budget.max_dollars" in result.complaint
        assert "raise it" in result.complaint
    assert stops >= 4
    meter = on_tinker.server.meter
    assert meter.trained_tokens == undisturbed.meter["trained_tokens"]
    assert meter.optim_steps == STEPS
    assert n_scored(on_tinker) == 10
    assert same_weights(on_tinker.weights(), undisturbed.weights)


def test_the_ledger_is_what_the_service_bills(on_tinker: TinkerRun) -> None:
    on_tinker.finish("bake", PRICES)
    on_tinker.finish("verify", PRICES)
    plan = on_tinker.do("plan", PRICES)
    assert plan.code == 0
    plan_json = json.loads(promptbake(*on_tinker.arguments("plan", PRICES), "--json").out)
    assert plan_json["spent_dollars"] == pytest.approx(dollars(on_tinker), rel=1e-6)
    predicted = sum(row["predicted"]["train_tokens"] for row in plan_json["rows"])
    assert predicted == on_tinker.server.meter.trained_tokens
    for row in plan_json["rows"]:
        if row["stage"] != "data" and row["work"] != "sample":
            # The cached tokens are estimated low, and the preflight is not included.
            assert 0.99 < row["predicted"]["dollars"] / row["spent"]["dollars"] < 1.4, row
    assert plan_json["dollars"] == pytest.approx(
        sum(row["predicted"]["dollars"] for row in plan_json["rows"])
    )


def test_a_cap_needs_prices(on_tinker: TinkerRun) -> None:
    refused = on_tinker.do("bake", "budget.max_dollars=1.0")
    assert "the prices of" in refused.complaint
    assert "options.backends.tinker.prices" in refused.complaint


def test_verify_measures_four_arms_by_the_top_k_and_a_bucket_and_writes_no_key(
    on_tinker: TinkerRun,
) -> None:
    on_tinker.finish("bake")
    before = on_tinker.server.meter.sample_calls
    on_tinker.finish("verify")
    plan = on_tinker.do("plan").out
    assert "spent so far: unknown" in plan
    assert "0.0000" not in plan
    verified = json.loads((on_tinker.run / "verify.json").read_bytes())
    assert verified["kl"]["kind"] == "top_k_bucket"
    assert verified["adapter"].startswith("tinker://")
    assert {"base", "prompted", "baked", "reprompted"} < set(verified["answers"][0])
    # Two arms are the curve's first and last point; the teacher's log-probabilities are stored.
    # For the control a wrong prompt is scored, and base and baked beside it.
    calls = (1 + 3) * HELD_OUT + 4 * len(verified["answers"])
    assert on_tinker.server.meter.sample_calls - before == calls
    on_tinker.finish("verify")
    assert on_tinker.server.meter.sample_calls - before == calls
    files = [path for path in on_tinker.run.rglob("*") if path.is_file()]
    assert not [path for path in files if KEY.encode() in path.read_bytes()]


def test_a_checkpoint_answers_by_its_address_alone(on_tinker: TinkerRun) -> None:
    on_tinker.finish("bake")
    record = json.loads((on_tinker.run / "adapter" / "tinker.json").read_bytes())
    where = settings(
        f"model.name={on_tinker.server.model}",
        f"options.backends.tinker.base_url={on_tinker.server.url}",
        "train.backend=tinker",
        "options.backends.tinker.renderer=chat_template",
    )
    profile = ["--profile", "tinker-local", *where, "--message", "Ahoy?", "--max-tokens", "8"]
    answers = {
        arm: promptbake("chat", record["sampler"], *profile, "--arm", arm).out
        for arm in ("baked", "base")
    }
    assert len(set(answers.values())) == 2
    by_prompt = promptbake(*on_tinker.arguments("chat"), "--message", "Ahoy?", "--max-tokens", "8")
    assert by_prompt.out == answers["baked"]
    refused = promptbake("chat", record["sampler"], *profile, "--arm", "prompted")
    assert "comes without a prompt" in refused.complaint
    assert not Path("runs").exists() or not list(Path("runs").glob("*.jsonl"))
    gone = record["sampler"].replace("baked", "nothing")
    assert "has nothing by that name" in promptbake("chat", gone, *profile).complaint
    assert "is a checkpoint" in promptbake("bake", record["sampler"], "--profile", "mock").complaint


def test_an_exported_adapter_goes_into_a_new_folder_only(on_tinker: TinkerRun) -> None:
    on_tinker.finish("bake")
    on_tinker.weights()
    again = promptbake(*on_tinker.arguments("export"), "--to", on_tinker.folder / "exported")
    assert "already exists; choose another" in again.complaint
    (on_tinker.run / "adapter" / "promptbake.json").unlink()
    lost = promptbake(*on_tinker.arguments("export"), "--to", on_tinker.folder / "other")
    assert "holds no adapter" in lost.complaint
    assert not (on_tinker.folder / "other").exists()


def test_runtime_options_may_change_during_a_bake(
    on_tinker: TinkerRun, undisturbed: Undisturbed
) -> None:
    on_tinker.start("bake").kill_when(lambda: n_steps(on_tinker) == 2)
    said = on_tinker.finish(
        "bake",
        "options.backends.tinker.deadline=50",
        "options.backends.tinker.calls_in_flight=3",
        "options.backends.tinker.steps_in_flight=1",
        PRICES,
    )
    assert "anew" not in said
    assert same_weights(on_tinker.weights(), undisturbed.weights)
    assert "baked already" in on_tinker.finish("bake", "options.backends.tinker.deadline=70")
    anew = on_tinker.finish("bake", "options.backends.tinker.max_grad_norm=0.5")
    assert "options.backends.max_grad_norm changed; baking anew" in anew


def test_a_state_that_has_expired_says_what_to_delete(on_tinker: TinkerRun) -> None:
    on_tinker.start("bake").kill_when(lambda: n_steps(on_tinker) == 3)
    (state,) = (on_tinker.run / "checkpoints").glob("step-*")
    record = json.loads((state / "tinker.json").read_bytes())
    lost = record | {"state": record["state"] + "-gone"}
    (state / "tinker.json").write_text(json.dumps(lost))
    record_as_saved(state)
    complaint = on_tinker.do("bake").complaint
    assert "has expired" in complaint
    assert f"Delete {on_tinker.run / 'checkpoints'} to bake anew" in complaint
    (state / "tinker.json").write_text("{}")
    record_as_saved(state)
    assert "has no state to resume from" in on_tinker.do("bake").complaint


def test_the_reservation_of_a_failed_call_is_released(on_tinker: TinkerRun) -> None:
    on_tinker.finish("bake", PRICES)
    adapter = on_tinker.run / "adapter" / "promptbake.json"
    record = json.loads(adapter.read_bytes())
    adapter.write_text(json.dumps(record | {"uri": record["uri"] + "-gone"}))
    record_as_baked(on_tinker.run)
    for _ in range(2):
        assert "has nothing by that name" in on_tinker.do("verify", PRICES).complaint
    lines = [json.loads(line) for line in (on_tinker.run / "costs.jsonl").read_text().splitlines()]
    committed = {line["id"] for line in lines if line["committed"]}
    assert committed == {line["id"] for line in lines}
    adapter.write_text(json.dumps(record | {"uri": "hf://somewhere/else"}))
    record_as_baked(on_tinker.run)
    assert "not an address on Tinker" in on_tinker.do("verify", PRICES).complaint


def test_a_response_that_cannot_be_rendered_is_left_out(on_tinker: TinkerRun) -> None:
    """The tokenizer alone is loaded to find out: nothing is sent."""
    lines = [{"messages": [{"role": "user", "content": f"What is {number}?"},
                           {"role": "assistant", "content": "Arr!" if number else "A<|im_end|>rr"}]}
             for number in range(5)]  # fmt: skip
    file = on_tinker.folder / "mine.jsonl"
    file.write_text("".join(json.dumps(line) + "\n" for line in lines))
    shutil.rmtree(on_tinker.run)
    said = on_tinker.finish(
        "data",
        "data.provider=files",
        f"options.data_providers.files.path={file}",
        "options.backends.tinker.renderer=qwen3_vl_instruct",
        "data.held_out=1",
    )
    assert "left out 1 of 5 responses: the renderer qwen3_vl_instruct cannot render it" in said
    assert not on_tinker.server.meter.requests


def test_a_plan_needs_no_service_and_no_key(
    on_tinker: TinkerRun, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("TINKER_API_KEY")
    seen = sum(on_tinker.server.meter.requests.values())
    assert on_tinker.do("plan").code == 0
    assert sum(on_tinker.server.meter.requests.values()) == seen


def test_a_local_server_that_dies_is_not_waited_for(tmp_path: Path) -> None:
    server = ChildServer("tinker", "--state", str(tmp_path), "--port", "none", subject="it")
    with pytest.raises(BakeError, match="it: the local server did not start"):
        _ = server.url
    with pytest.raises(BakeError, match="the local server has ended"):
        server.check_alive()
    server.close()
