"""The benchmark against the reference recipe: every count by hand, from the texts' bytes."""

from __future__ import annotations

import importlib
import json
import math
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import tinker
import torch
from rich.console import Console

from promptbake.dataset.example_turns import with_system
from promptbake.runs.ledger import Ledger
from promptbake.testing.tiny import tiny_tokenizer
from promptbake.types import Datum
from promptbake_loopback.tinker import KEY

ROOT = Path(__file__).parents[2]
CONVERSATIONS, HELD_OUT, EPOCHS, BATCH, K, DRAWS = 4, 2, 4, 3, 20, 4
STEPS = 2 * EPOCHS  # of three conversations and of one
REFERENCE, OURS, BUCKET, PER_TOKEN = "reference recipe", "promptbake", "tail=bucket", "per_token"


@pytest.fixture(scope="module")
def bench() -> Iterator[Any]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("TINKER_TELEMETRY", "0")
        patch.setenv("TINKER_API_KEY", KEY)
        patch.syspath_prepend(str(ROOT / "ci"))
        yield importlib.import_module("bench_tinker")


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("bench")


@pytest.fixture(scope="module")
def rows(bench: Any, folder: Path) -> list[dict[str, Any]]:
    job = bench.Job(CONVERSATIONS, HELD_OUT, EPOCHS, BATCH, K)
    found: list[dict[str, Any]] = bench.benchmark(job, folder)
    return found


def row(rows: list[dict[str, Any]], arm: str, part: str = "job") -> dict[str, Any]:
    (found,) = [row for row in rows if (row["arm"], row["part"]) == (arm, part)]
    return found


def lengths(folder: Path, name: str, system: str | None) -> list[int]:
    """Tokens of each conversation: the rendered query, a token for each byte, one for the end."""
    told = with_system(system, ()) if system else ()
    turns = [{"role": each.role, "content": each.content} for each in told]
    found = []
    for line in (folder / OURS / "run" / name).read_text("utf-8").splitlines():
        query, response = json.loads(line)["messages"]
        text = tiny_tokenizer().apply_chat_template(
            [*turns, query], add_generation_prompt=True, tokenize=False
        )
        rendered = len(tiny_tokenizer().encode(text))
        found.append(rendered + len(response["content"].encode()) + 1)
    return found


@pytest.fixture(scope="module")
def trained(rows: list[dict[str, Any]], folder: Path) -> int:
    """Tokens that one pass over the conversations trains on: the last of each has no target."""
    found = lengths(folder, "data.jsonl", None)
    assert len(found) == CONVERSATIONS
    return sum(found) - CONVERSATIONS


@pytest.fixture(scope="module")
def read(rows: list[dict[str, Any]], folder: Path, bench: Any) -> int:
    """Tokens that one pass of the teacher reads."""
    return sum(lengths(folder, "data.jsonl", bench.PROMPT.read_text("utf-8").strip()))


def test_the_reference_asks_and_sends_everything_k_times_over(
    rows: list[dict[str, Any]], trained: int, read: int
) -> None:
    found = row(rows, REFERENCE)

    assert found["scoring_calls"] == found["sampled_tokens"] == EPOCHS * CONVERSATIONS
    assert (found["prefill_tokens"], found["cached_prefill_tokens"]) == (EPOCHS * read, 0)
    assert found["trained_tokens"] == found["forward_tokens"] == K * EPOCHS * trained
    assert found["passes"] == 3 * K * EPOCHS * trained
    assert found["datums"] == 2 * K * EPOCHS * CONVERSATIONS  # forward, and backward again
    assert found["optim_steps"] == STEPS


@pytest.mark.parametrize(
    ("arm", "per_conversation", "requests"),
    [(OURS, 1, 1), (BUCKET, 1, 2), (PER_TOKEN, K + DRAWS, 1)],
)
def test_promptbake_asks_once_and_sends_what_its_way_takes(
    rows: list[dict[str, Any]],
    trained: int,
    read: int,
    arm: str,
    per_conversation: int,
    requests: int,
) -> None:
    found = row(rows, arm)

    assert found["scoring_calls"] == found["sampled_tokens"] == CONVERSATIONS
    assert found["prefill_tokens"] + found["cached_prefill_tokens"] == read
    assert (found["cached_prefill_tokens"] > 0) == (arm == BUCKET)  # draws score the whole prompt
    assert found["trained_tokens"] == per_conversation * EPOCHS * trained
    assert found["passes"] == (1 + requests) * found["trained_tokens"]
    assert found["datums"] == requests * per_conversation * EPOCHS * CONVERSATIONS
    assert found["optim_steps"] == STEPS


@pytest.mark.parametrize(
    ("arm", "calls", "passes"), [(OURS, 2, 2), (BUCKET, 2, 2), (PER_TOKEN, 2, 0)]
)
def test_preflight_and_the_held_out_curve_are_rows_of_their_own(
    rows: list[dict[str, Any]], folder: Path, bench: Any, arm: str, calls: int, passes: int
) -> None:
    preflight, curve = row(rows, arm, "preflight"), row(rows, arm, "held-out curve")
    prompted = lengths(folder, "held_out.jsonl", bench.PROMPT.read_text("utf-8").strip())
    bare = lengths(folder, "held_out.jsonl", None)

    assert (preflight["scoring_calls"], preflight["passes"]) == (calls, passes)
    assert preflight["trained_tokens"] == curve["trained_tokens"] == curve["passes"] == 0
    assert curve["scoring_calls"] == 3 * HELD_OUT  # the teacher, and the student at both ends
    assert curve["prefill_tokens"] + curve["cached_prefill_tokens"] == sum(prompted) + 2 * sum(bare)


@pytest.mark.parametrize("arm", [OURS, BUCKET, PER_TOKEN])
def test_the_rows_together_are_what_the_ledger_has(
    rows: list[dict[str, Any]], folder: Path, arm: str
) -> None:
    total: Counter[str] = Counter()
    for part in ("job", "preflight", "held-out curve"):
        total.update({k: v for k, v in row(rows, arm, part).items() if isinstance(v, int)})
    used = Ledger(folder / arm / "run" / "costs.jsonl", None).by_work()

    assert sum(usage.train_tokens for usage in used.values()) == total["trained_tokens"]
    assert sum(usage.output_tokens for usage in used.values()) == total["sampled_tokens"]
    assert (
        sum(usage.cached_input_tokens for usage in used.values()) == total["cached_prefill_tokens"]
    )
    assert sum(usage.input_tokens for usage in used.values()) == (
        total["prefill_tokens"] + total["forward_tokens"]
    )


def test_the_bars_hold(bench: Any, rows: list[dict[str, Any]]) -> None:
    found = bench.compared(rows)

    assert all(bar["passed"] for bar in found["bars"].values())
    assert found["ratios"]["trained_tokens"] == 20
    assert found["ratios"]["scoring_calls"] == 4
    assert found["ratios"]["passes"] == 30


@pytest.mark.parametrize("name", ["trained_tokens", "scoring_calls", "passes"])
def test_one_token_or_call_more_misses_its_bar(
    bench: Any, rows: list[dict[str, Any]], name: str
) -> None:
    worse = [row | {name: row[name] + 1} if row["arm"] == OURS else row for row in rows]

    bars = bench.compared(worse)["bars"]

    assert [key for key, bar in bars.items() if not bar["passed"]] == [name]


def test_the_dollars_are_those_of_the_price_list(rows: list[dict[str, Any]]) -> None:
    for found in rows:
        read = found["prefill_tokens"] + found["forward_tokens"]
        millionths = 0.195 * (read + 0.2 * found["cached_prefill_tokens"])
        millionths += 0.60 * found["sampled_tokens"] + 0.44 * found["trained_tokens"]
        assert found["dollars"] == pytest.approx(millionths / 1e6, abs=1e-7)


def test_the_references_loss_is_the_kl_over_the_top_k(bench: Any) -> None:
    datum = Datum("c", "q", (5, 6, 7, 8), (4, 5, 6, 7, 8), 2)
    halves = [(7, math.log(0.5)), (3, math.log(0.25))]
    top_k = [None, None, None, halves, [(8, math.log(0.75)), (9, math.log(0.125))]]

    sent = bench.k_datums(datum, top_k)
    logprobs = [torch.full((3,), math.log(0.25), requires_grad=True) for _ in sent]
    loss, _ = bench.kl_over_top_k(sent, logprobs)
    loss.backward()

    assert [one.model_input.to_ints() for one in sent] == [[5, 6, 7]] * 2
    targets = [one.loss_fn_inputs["target_tokens"].to_torch().tolist() for one in sent]
    assert targets == [[0, 7, 8], [0, 3, 9]]
    by_hand = 0.5 * math.log(2) + 0.75 * math.log(3) + 0.125 * math.log(0.5)
    assert float(loss.detach()) == pytest.approx(by_hand, abs=1e-6)
    gradients = [q.grad.tolist() for q in logprobs if q.grad is not None]
    assert gradients == [pytest.approx([0, -0.5, -0.75]), pytest.approx([0, -0.25, -0.125])]


def test_a_missed_bar_is_the_exit_status_and_the_file_is_written(
    bench: Any, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = tmp_path / "bench" / "tinker.json"

    status = bench.main(bench.Job(1, 1, epochs=1, batch_size=1, top_k=2), file)

    assert status == 1  # one epoch asks the teacher once, K = 2 trains on twice the tokens
    result = json.loads(file.read_bytes())
    assert result["schema"] == 1
    assert result["versions"]["tinker"] == tinker.__version__
    assert {name: bar["passed"] for name, bar in result["bars"].items()} == dict.fromkeys(
        bench.BARS, False
    )
    assert "/" not in file.read_text("utf-8").replace("Qwen/Qwen3-8B", "")
    printed = capsys.readouterr().out
    assert "bar 30 or more: FAILED" in printed
    assert "held-out curve" in printed
    assert len(result["rows"]) == 10


def test_a_narrow_terminal_does_not_fold_the_table(bench: Any, rows: list[dict[str, Any]]) -> None:
    job = {"response_tokens": [20, 27]}
    result = {"rows": rows, "job": job, "prices": "", "seconds": 1, **bench.compared(rows)}
    with (out := Console(width=40)).capture() as capture:
        bench.show(result, out)

    assert len([line for line in capture.get().splitlines() if "held-out curve" in line]) == 3
