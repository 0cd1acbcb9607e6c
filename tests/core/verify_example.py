"""A result of `verify`, as the tests of verify.json and of the report have it."""

from __future__ import annotations

from promptbake.report.evidence import ConversationKL, Evidence, PromptText, TargetEvidence
from promptbake.report.kl_result import HeldOut, KLResult, PositionKL, TargetKL, TokenShare
from promptbake.report.measured import (
    ControlResult,
    DifferenceResult,
    MeasurementResult,
)
from promptbake.report.origin import ChangedSetting, Origin, SystemPrompt
from promptbake.report.query_kl import QueryKL
from promptbake.report.verdict import Criterion, Verdict
from promptbake.report.verify_result import AnswerResult, Seconds, Threshold, VerifyResult
from promptbake.types import ARMS

ORIGIN = Origin(
    date="2026-11-29T11:35:02+00:00",
    command="promptbake verify prompts/yoda.md --profile local",
    profile="local",
    changed={"train.lr": ChangedSetting(value=0.002, profile=0.001)},
    max_tokens=48,
    temperature=0.7,
    conversations=105,
    cut=90,
)
RESULT = VerifyResult(
    prompt="yoda",
    backend="torch",
    model="smollm2-135m-instruct",
    adapter="runs/yoda/adapter",
    system_prompt=SystemPrompt(text="You are Yoda.\nShort is every answer.", tokens=99.2),
    origin=ORIGIN,
    held_out=HeldOut(queries=15, tokens=2137),
    kl=KLResult(
        kind="full",
        base=0.48,
        baked=0.11,
        reprompted=0.09,
        gap_closed=0.7708,
        gap_closed_ci95=(0.7214, 0.8107),
        gap_closed_ci90=(0.7301, 0.8046),
        ci95={"base": (0.41, 0.56), "baked": (0.09, 0.14)},
        by_position=[
            PositionKL(first=0, end=8, tokens=120, base=0.9, baked=0.3, gap_closed=2 / 3),
            PositionKL(first=8, tokens=2017, base=0.45, baked=0.1, gap_closed=7 / 9),
        ],
        top_1_agreement={"baked": TokenShare(share=0.81, ci95=(0.78, 0.84))},
        entropy={"base": 1.9, "prompted": 1.6, "baked": 1.63},
    ),
    queries=[
        QueryKL(
            id="q-0", question="Is ice light?", tokens=900, base=0.56, baked=0.1, reprompted=0.1
        ),
        QueryKL(id="q-1", question="Why?", tokens=1237, base=0.42, baked=0.13, reprompted=0.08),
    ],
    targets={
        "yoda": TargetKL(base=0.48, baked=0.11, reprompted=0.09, gap_closed=0.77),
        "keep": TargetKL(base=0.0, baked=0.02, reprompted=0.02, gap_closed=None),
    },
    evaluators={
        "length": MeasurementResult(
            unit="words",
            better="lower",
            base=3.0,
            baked=1.5,
            baked_minus_base=DifferenceResult(mean=-1.5, ci95=(-2.0, -1.0), items=2),
            scores={"base": {"a": 2.0, "b": 4.0}, "baked": {"a": 1.0, "b": 2.0}},
        ),
        "one": MeasurementResult(
            unit="words",
            baked_minus_base=DifferenceResult(mean=1.0, ci95=None, items=1),
            scores={},
        ),
    },
    controls={
        "wrong prompt": ControlResult(
            what="the baked model beside the prompt 'telegram', which it was not made from",
            gap_closed=-0.4,
            ci90=(-0.6, -0.2),
            conversations=15,
            refused=True,
        )
    },
    verdict=Verdict(
        outcome="closer but not equivalent",
        decided_by=[
            Criterion(
                margin="gap_closed",
                measurement="kl.gap_closed",
                value=0.7708,
                ci90=(0.7301, 0.8046),
                bound="at least",
                limit=0.8,
                passed=False,
                refuted=False,
            )
        ],
        margins_changed=["verify.margins.shift: 0.4; 0.5 when the bake began"],
    ),
    thresholds={"kl.gap_closed": Threshold(min=0.5, value=0.7708, passed=True)},
    passed=True,
    answers=[
        AnswerResult(id="test-0", question="Question 0?", base="Grüße \u2028", baked="baked 0"),
        AnswerResult(
            id="test-1",
            question="Question 1?",
            tokens={"prompted": 13, "baked": 48},
            complete={"prompted": True, "baked": False},
            **{arm: f"{arm} 1" for arm in ARMS},
        ),
    ],
    seconds=Seconds(data=None, bake=412.7, verify=9.44),
)
EVIDENCE = Evidence(
    prompt=PromptText(name="yoda", text="Speak as Yoda does."),
    backend="torch",
    model="smollm2-135m-instruct",
    adapter="runs/yoda/adapter",
    origin=ORIGIN,
    tokens_saved=99.2,
    questions={f"q{number}": f"Question {number}?" for number in range(4)},
    kind="full",
    main_target="",
    targets=[
        TargetEvidence(
            name="",
            teacher=PromptText(name="yoda", text="Speak as Yoda does."),
            student=PromptText(name="", text=""),
            weight=1.0,
            queries="",
            held_out=[
                ConversationKL(
                    conversation=f"c{number}",
                    query=f"q{number}",
                    tokens=4,
                    nats={"base": 2.0 + number, "baked": 0.25, "reprompted": 0.125},
                )
                for number in range(4)
            ],
        )
    ],
    controls=[],
    measurements=[],
    answers=RESULT.answers,
    seconds=RESULT.seconds,
    config={"seed": 0, "train": {"rank": 16, "lr": 2e-3}, "verify": {"min_gap_closed": 0.5}},
    record={"stages": {"bake": {"margins": {"gap_closed": 0.8}, "steps": 36}}},
    lines={},
)
