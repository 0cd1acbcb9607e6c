"""The benchmark against other trainers: its arithmetic by hand, and a run on the tiny model."""

from __future__ import annotations

import importlib
import json
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from rich.console import Console

from promptbake.errors import BakeError
from promptbake.files import write_atomic
from promptbake.testing.tiny import save_tiny

ROOT = Path(__file__).parents[2]
QUERIES = "What is rain?\nWho are you?\nWhy do birds sing?\nHow do I cook rice?\nIs it late?\n"


@pytest.fixture(scope="module")
def bench() -> Iterator[Any]:
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(str(ROOT / "ci"))
        yield importlib.import_module("bench_local")


def part(name: str) -> Any:
    return importlib.import_module(f"local_bench.{name}")


def points(*values: tuple[float, float]) -> Any:
    point = part("records").Point
    return tuple(point(seconds=at, step=n, gap_closed=gap) for n, (at, gap) in enumerate(values))


def outcome(contestant: str, curve: Any, **changes: Any) -> Any:
    records = part("records")
    values = {
        "contestant": contestant,
        "prompt": "yoda",
        "seed": 0,
        "base_kl": 1.0,
        "points": curve,
        "phases": {"training": records.Phase(tokens=100, seconds=5.0, flops=2e9)},
        "seconds": curve[-1].seconds,
        "ended": "enough",
        "peak_bytes": 10**9,
        "limit": 60.0,
        "held_out_digest": "d",
        "settings": (),
    }
    return records.Outcome(**values | changes)


@pytest.fixture
def machine(bench: Any) -> Any:
    return part("records").Machine(cores=2, processor="x", matmul_gflops=1.0, versions={})


@pytest.mark.parametrize(
    ("curve", "expected"),
    [
        ([(0, 0), (10, 0), (20, 0.5), (30, 0.9)], 25.0),
        ([(0, 0), (10, 0.7)], 10.0),
        ([(0, 0), (10, 0.69)], None),
        ([(0, 0), (10, 0.8), (20, 0.1), (30, 0.9)], 8.75),  # the first time counts
        ([(0, 0), (10, -0.7), (20, 0.7)], 20.0),
    ],
)
def test_the_time_to_the_target_is_interpolated(
    bench: Any, curve: list[tuple[float, float]], expected: float | None
) -> None:
    found = part("summary").time_to(points(*curve), 0.7)

    assert found == (None if expected is None else pytest.approx(expected))


@pytest.mark.parametrize(
    ("seconds", "gap"), [(0, 0), (5, 0), (15, 0.25), (20, 0.5), (25, 0.7), (99, 0.9)]
)
def test_the_gap_at_a_time_is_interpolated_and_the_last_one_afterwards(
    bench: Any, seconds: float, gap: float
) -> None:
    curve = points((0, 0), (10, 0), (20, 0.5), (30, 0.9))

    assert part("summary").gap_at(curve, seconds) == pytest.approx(gap)


def test_ratios_are_of_medians_and_a_curve_below_the_target_gives_a_bound(
    bench: Any, machine: Any
) -> None:
    ours = [
        outcome("ours", points((0, 0), (at, 0.7), (at + 1, 0.8)), seed=n, ended="finished")
        for n, at in enumerate((1.0, 2.0, 6.0))
    ]
    sdft = [outcome("sdft", points((0, 0), (30.0, 0.7)), seed=n) for n in range(3)]
    low = outcome("reference", points((0, 0), (60.0, 0.35)), ended="limit")

    found = {row.contestant: row for row in part("summary").rows([*ours, *sdft, low], machine)}

    assert found["ours"].time.seconds.median == pytest.approx(2.0)
    assert found["ours"].time.seconds.lowest == pytest.approx(1.0)
    assert found["sdft"].ratio == pytest.approx(15.0)
    assert not found["sdft"].time.at_least
    assert found["reference"].ratio == pytest.approx(30.0)
    assert found["reference"].time.at_least
    assert found["reference"].time.why == "limit"
    assert found["sdft"].gap_at_equal_time == pytest.approx(0.7 * 3 / 30)  # ours ends at 2, 3, 7
    assert found["sdft"].tokens_per_second == {"training": 20.0}
    assert found["sdft"].share_of_peak == pytest.approx(2.0 / 30.0)
    assert [bar.passed for bar in part("summary").bars(list(found.values()))] == [True, True]


def test_a_ratio_needs_promptbake_at_the_target_and_the_bar_fails_without_it(
    bench: Any, machine: Any
) -> None:
    summary = part("summary")
    ours = outcome("ours", points((0, 0), (5.0, 0.69)), ended="finished")
    sdft = outcome("sdft", points((0, 0), (500.0, 0.7)))

    rows = summary.rows([ours, sdft], machine)

    assert [row.ratio for row in rows] == [None, None]
    assert [bar.passed for bar in summary.bars(rows)] == [False]


def test_contestants_that_measured_different_things_are_refused(bench: Any, machine: Any) -> None:
    curve = points((0, 0), (5.0, 0.8))
    others = [outcome("ours", curve), outcome("sdft", curve, base_kl=1.02)]

    with pytest.raises(BakeError, match=r"1\.0000 for ours and 1\.0200 for sdft"):
        part("summary").rows(others, machine)


def test_the_table_marks_lower_bounds_and_folds_nothing(bench: Any, machine: Any) -> None:
    ours = outcome("ours", points((0, 0), (2.0, 0.8)), ended="finished")
    low = outcome("reference", points((0, 0), (60.0, 0.35)), ended="limit")
    rows = part("summary").rows([ours, low], machine)
    with (out := Console(width=30)).capture() as capture:
        part("show").show(rows, part("summary").bars(rows), machine, out)

    lines = capture.get().splitlines()
    (reference,) = [line for line in lines if line.startswith("reference recipe  ")]
    assert "> 60" in reference
    assert "> 34.3" in reference
    assert any("did not reach 0.7 (limit)" in line for line in lines)
    assert any("bar 30 or more: passed" in line for line in lines)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--contestants", "our"], r"--contestants our: unknown; .* \(did you mean ours\?\)"),
        (["--seeds", "0"], "expected at least one seed"),
        (["--limit", "0"], "a limit above 0"),
        (["--limit", "nan"], "a limit above 0"),
        (["--prompts", "yodel"], "--prompts yodel: is no file"),
    ],
)
def test_what_makes_no_sense_is_refused(bench: Any, arguments: list[str], message: str) -> None:
    with pytest.raises(BakeError, match=message):
        bench.read_plan(arguments).jobs()


def test_a_task_counts_the_flops_of_the_weights(bench: Any) -> None:
    task = part("records").Task.model_construct(layer_weights=100, head_weights=10)

    assert task.flops("sampling") == task.flops("teacher") == 220
    assert task.flops("training") == 440
    assert task.flops("training", trained_share=0.5) == 340


def test_measuring_costs_no_time_on_the_clock(bench: Any) -> None:
    clock = part("clock").Clock()
    with pytest.raises(RuntimeError, match="not been started"):
        _ = clock.seconds
    clock.start(spent=100.0)
    outside, before = time.perf_counter(), clock.seconds
    with clock.paused():
        time.sleep(0.2)
    after, elapsed = clock.seconds, time.perf_counter() - outside

    assert 100.0 <= before <= after <= before + elapsed - 0.2


def test_the_references_loss_is_the_kl_over_the_top_k(bench: Any) -> None:
    plain, reference = part("plain"), part("reference")

    class Uniform:
        """The same log-probability for each of 4 tokens."""

        def __call__(self, input_ids: torch.Tensor, logits_to_keep: int, **more: Any) -> Any:
            assert input_ids.tolist() == [[1, 2, 3]] * 2  # a row for each of the K
            logits = torch.zeros(len(input_ids), logits_to_keep, 4)
            return type("Output", (), {"logits": logits})

    response = plain.Response((1,), (0, 1), (2, 3))
    p = torch.tensor([[0.5, 0.25], [0.75, 0.125]])

    loss = reference.kl_over_k_datums(Uniform(), response, torch.tensor([[2, 0], [3, 1]]), p.log())

    log2, log3 = 0.6931472, 1.0986123
    assert float(loss) == pytest.approx(0.5 * log2 + 0.75 * log3 - 0.125 * log2, abs=1e-6)


@pytest.fixture(scope="module")
def tiny(bench: Any, tmp_path_factory: pytest.TempPathFactory) -> tuple[Any, Path]:
    """A plan on the tiny model, and the folder of its files."""
    folder = tmp_path_factory.mktemp("bench")
    save_tiny(folder / "model")
    (folder / "short.md").write_text("Answer in one word.")
    (folder / "queries.txt").write_text(QUERIES)
    settings = {
        "model.name": folder / "model",
        "data.queries": folder / "queries.txt",
        "data.held_out": 2,
        "data.temperatures": [0.7, 1.0],
        "data.max_tokens": 6,
        "train.epochs": 1,
        "train.batch_size": 3,
        "teacher.top_k": 3,
    }
    lines = tuple(f"{name}={value}" for name, value in settings.items())
    prompt, contestants = str(folder / "short.md"), ("ours", "reference")
    return bench.Plan((prompt,), contestants, 1, 600.0, lines, folder=folder / "out"), folder


def in_process(job: Any, listen: Callable[[str], None]) -> None:
    """Run a job here, which imports nothing anew."""
    result = part("child").result_of(job)
    write_atomic(job.outcome_file, result.model_dump_json())


def test_a_run_on_the_tiny_model_writes_the_file_and_keeps_what_was_measured(
    bench: Any, tiny: tuple[Any, Path], capsys: pytest.CaptureFixture[str]
) -> None:
    plan, folder = tiny

    assert bench.main(plan, in_process) == 1  # the tiny model closes no gap in two steps

    report = json.loads((folder / "out" / "local.json").read_bytes())
    ours, reference = report["outcomes"]
    assert (ours["contestant"], reference["contestant"]) == plan.contestants
    assert ours["base_kl"] == pytest.approx(reference["base_kl"], rel=1e-3)
    assert ours["held_out_digest"] == reference["held_out_digest"]
    for each in (ours, reference):
        assert each["points"][0] == {"seconds": 0.0, "step": 0, "gap_closed": 0.0}
        assert each["points"][1]["step"] == 0
        seconds = [point["seconds"] for point in each["points"]]
        assert seconds == sorted(seconds)
        assert each["phases"].keys() == {"sampling", "teacher", "training"}
        assert sum(phase["seconds"] for phase in each["phases"].values()) <= each["seconds"] * 1.01
        assert each["peak_bytes"] > 10**7
    assert ours["points"][-1]["step"] == 2  # 6 conversations in batches of 3, once
    assert reference["points"][-1]["step"] == 8  # in 4 epochs
    assert ours["phases"]["training"]["tokens"] == ours["phases"]["sampling"]["tokens"]
    asked, sampled = (reference["phases"][name]["tokens"] for name in ("teacher", "sampling"))
    assert asked == 4 * sampled  # the teacher is asked again in each epoch
    assert report["bars"][0]["contestant"] == "reference"
    assert (folder / "out" / "local.svg").stat().st_size > 1000
    assert "bar 30 or more: FAILED" in capsys.readouterr().out

    def refuse(job: Any, listen: Callable[[str], None]) -> None:
        assert job.contestant in ("machine", "prepare"), "it was measured by the same code"
        in_process(job, listen)

    assert bench.main(plan, refuse) == 1
    assert capsys.readouterr().out.count("kept, measured") == 2


def test_other_code_and_higher_limits_are_measured_again(bench: Any) -> None:
    records = part("records")
    job = records.Job(contestant="sdft", prompt="p.md", seed=0, folder="f", limit=60.0)
    longer = job.model_copy(update={"limit": 61.0})
    kept = outcome("sdft", points((0, 0), (60.0, 0.3)), ended="limit", code="c")

    assert bench.is_current(kept, job, "c", "d")
    assert not bench.is_current(kept, job, "other", "d")
    assert not bench.is_current(kept, job, "c", "other")
    assert not bench.is_current(kept, longer, "c", "d")
    assert bench.is_current(kept.model_copy(update={"ended": "enough"}), longer, "c", "d")
