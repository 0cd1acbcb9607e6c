"""Whatever the service does: survived, or one clear line and a run that resumes; nothing twice."""

from __future__ import annotations

import json

import pytest
from tinker_run import HELD_OUT, QUERIES, STEPS, TinkerRun, Undisturbed, same_weights

from promptbake_loopback.tinker import Fault
from promptbake_tinker.service import close_all

PROBES = 2  # sampling calls of the preflight, in each process
SURVIVED = {
    "busy and broken": [
        Fault("429", "asample", times=3),
        Fault("429", "save_weights"),
        Fault("503", "forward_backward"),
        Fault("502", "optim_step"),
        Fault("500", "any"),
    ],
    "lost requests and answers": [
        Fault("dropped_early", "forward_backward"),
        Fault("dropped_early", "asample", after=2),
        Fault("dropped_early", "create_model"),
        Fault("dropped", "asample", times=2, after=5),
        Fault("dropped", "forward_backward", after=1),
        Fault("dropped", "optim_step", after=2),
        Fault("dropped", "save_weights", after=1),
    ],
    "while polling": [
        Fault("500", "retrieve_future", times=3, after=2),
        Fault("try_again", "retrieve_future", times=9, after=5),
        Fault("dropped", "retrieve_future", after=20),
    ],
    "slow, and a lost state": [
        Fault("slow", "any", times=9, seconds=0.1),
        Fault("failed", "save_weights", after=1),
    ],
    "failed calls": [Fault("failed", "asample", times=4, after=4)],
}


@pytest.mark.parametrize("faults", SURVIVED.values(), ids=SURVIVED)
def test_a_bake_survives_and_pays_for_nothing_twice(
    on_tinker: TinkerRun, undisturbed: Undisturbed, faults: list[Fault]
) -> None:
    for fault in faults:
        on_tinker.server.inject_fault(**vars(fault))
    on_tinker.finish("bake")
    meter = on_tinker.server.meter
    assert {name: getattr(meter, name) for name in undisturbed.meter} == undisturbed.meter
    assert set(meter.executed.values()) == {1}
    assert same_weights(on_tinker.weights(), undisturbed.weights)


ENDED = {
    "a step that fails": (Fault("failed", "forward_backward", after=2), "failed"),
    "an optimiser that fails": (Fault("failed", "optim_step", after=1), "failed"),
    "a lost result": (Fault("gone", "forward_backward", after=2), "no longer has its result"),
    "a page of HTML": (Fault("garbage", "forward_backward", after=1), "failed"),
    "a short answer": (Fault("short", "asample", after=PROBES + 3), "conversation "),
    "no top K": (Fault("no_topk", "asample", after=PROBES + 3), "conversation "),
    "a call refused": (
        Fault("failed_user", "asample", after=PROBES + 3),
        "the same request would be refused again",
    ),
}


@pytest.mark.parametrize(("fault", "says"), ENDED.values(), ids=ENDED)
def test_a_bake_that_ends_says_why_and_resumes_without_paying_twice(
    on_tinker: TinkerRun, undisturbed: Undisturbed, fault: Fault, says: str
) -> None:
    on_tinker.server.inject_fault(**vars(fault))
    complaint = on_tinker.do("bake").complaint
    assert says in complaint
    assert ("run the same command" in complaint) == (fault.kind != "failed_user")
    assert "raised by" not in complaint
    close_all()
    assert on_tinker.server.outcomes[-1] == "errored"
    paid = on_tinker.server.meter
    on_tinker.finish("bake")
    meter = on_tinker.server.meter
    # What was in flight where a result is lost is trained again, at most two steps.
    again = meter.optim_steps - STEPS
    assert 1 <= again <= 2 if fault.kind == "gone" else again == 0
    # A gradient whose optimiser step the service failed is lost: of that batch, no more.
    lost = again + (fault.on == "optim_step")
    once = undisturbed.meter["trained_tokens"]
    assert meter.trained_tokens == pytest.approx(once + lost * once / STEPS, rel=0.1)
    calls = meter.sample_calls - undisturbed.meter["sample_calls"]
    useless = 1 if fault.kind in ("short", "no_topk") else 0
    begun = HELD_OUT if paid.optim_steps == 0 and paid.trained_tokens else 0
    assert calls == PROBES + useless + begun
    assert on_tinker.steps() == list(range(STEPS + 1))
    assert same_weights(on_tinker.weights(), undisturbed.weights)


def test_a_limited_service_takes_a_bake_that_asks_for_less(on_tinker: TinkerRun) -> None:
    for kind, on in (("bounded_ids", "asample"), ("no_logprobs", "forward_backward")):
        on_tinker.server.inject_fault(kind, on, times=10**6)
    for on in ("forward", "forward_backward"):
        on_tinker.server.inject_fault("bounded_columns", on, times=10**6)
    complaint = on_tinker.do("bake").complaint
    assert "24 columns, expected at most 20" in complaint
    assert "teacher.top_k and train.tail_draws make 24 columns; lower them, or set" in complaint
    narrow = "teacher.top_k=16"
    on_tinker.finish("bake", narrow)
    lines = (on_tinker.run / "metrics.jsonl").read_text().splitlines()
    steps = [json.loads(line) for line in lines]
    assert [line["step"] for line in steps if line.get("held_out_kl")] == [0, STEPS]
    assert all(0 < line["loss"] < 10 for line in steps[1:])
    on_tinker.finish("verify", narrow)


def test_a_point_that_cannot_be_measured_costs_the_point(
    on_tinker: TinkerRun, undisturbed: Undisturbed
) -> None:
    scored = QUERIES + PROBES  # calls before the first point
    on_tinker.server.inject_fault("failed_user", "asample", times=10**6, after=scored)
    on_tinker.server.inject_fault("failed_user", "forward", times=10**6, after=1)
    said = on_tinker.finish("bake")
    assert "held-out KL not measured at step 0: a forward pass over 2 conversations: " in said
    assert "held-out curve: 2 of 2 points could not be measured" in said
    assert same_weights(on_tinker.weights(), undisturbed.weights)


def test_a_service_that_does_not_come_back_is_waited_for_until_the_deadline(
    on_tinker: TinkerRun,
) -> None:
    on_tinker.server.inject_fault("try_again", "optim_step", times=10_000)
    result = on_tinker.do("bake", "options.backends.tinker.deadline=2")
    assert "step 1 of this run: no answer" in result.complaint
    assert "in 2 seconds" in result.complaint


def test_a_bill_that_is_not_paid_is_named(on_tinker: TinkerRun) -> None:
    on_tinker.server.inject_fault("402", "asample", times=10_000)
    result = on_tinker.do("bake", "options.backends.tinker.deadline=5")
    assert "billing" in result.complaint
