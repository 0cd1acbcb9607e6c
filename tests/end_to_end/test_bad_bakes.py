"""Bakes that are bad on purpose are refused, each for a stated reason; good ones are accepted.

A bake is refused where its verdict is not `equivalent within margins`. What the tiny model cannot
show, since it hardly reads the query: a bake on one query alone is almost as good as on all of them
(0.81 of the gap closed in 16 steps), so that case is trained for too long; responses to other
queries are learned by plain fine-tuning. Damage that only other text shows needs an evaluator.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pytest
import torch
from run_folder import record_as_baked
from safetensors.torch import load_file, save_file
from torch import Tensor

import promptbake
from promptbake import BakeError, Prompt
from promptbake.files import seal
from promptbake.report.verify_result import VerifyResult

PIRATE = Prompt("pirate", "Answer like a pirate who has lost his map, his ship and his parrot.")
LAWYER = Prompt("lawyer", "You are a lawyer. Whatever is said, object to it, and cite the law!")
HOST = Prompt("host", "Hello! We are GLAD you came; tea is served at 5. Ask (gently) for more...")
NOBODY = Prompt("nobody", "Be kind.")  # what the tiny model's template says by itself
ASKS, THINGS = ("What is", "Where is", "Who saw", "Why is there"), ("a tide", "rum", "a map", "it")
QUERIES = [f"{ask} {thing}{mark}" for ask in ASKS for thing in THINGS for mark in ("?", ", then?")]
EQUIVALENT = "equivalent within margins"
SETTINGS = {
    "data.queries": "queries.txt",
    "verify.questions": "questions.txt",
    "data.held_out": 10,
    "data.max_tokens": 12,
    "verify.max_tokens": 1,
    "train.eval_every": 1000,
    "train.save_every": 1000,
    "train.trackers": [],
}
Weights = dict[str, Tensor]


def job(run: str, **settings: Any) -> dict[str, Any]:
    """The keyword arguments of a small bake; a setting's dots are written as `__`."""
    given = {key.replace("__", "."): value for key, value in settings.items()}
    return {"profile": "mock", "run": run, "quiet": True, "settings": SETTINGS | given}


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the data of PIRATE, and a good bake on it."""
    folder = tmp_path_factory.mktemp("bakes")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        Path("queries.txt").write_text("\n".join(QUERIES))
        Path("one.txt").write_text("\n".join(QUERIES[:11]))
        Path("questions.txt").write_text("Why?\n")
        promptbake.data(PIRATE, **job("data"))
        shutil.copytree("data", "good")
        promptbake.bake(PIRATE, **job("good"))
        promptbake.verify(PIRATE, **job("good"))  # what it measures of base is in the copies
    return folder


@pytest.fixture
def bakes(runs: Path, working_folder: None, monkeypatch: pytest.MonkeyPatch) -> None:
    """Work beside those runs; what a test leaves is deleted."""
    monkeypatch.chdir(runs)
    for name in ("mine", "other"):
        shutil.rmtree(name, ignore_errors=True)


def judged(prompt: Prompt = PIRATE, **settings: Any) -> VerifyResult | str:
    """What `verify` says of the run `mine`: its result, or the error that refuses it."""
    try:
        return promptbake.verify(prompt, **job("mine", **settings))
    except BakeError as error:
        return str(error)


def check_refused(result: VerifyResult | str) -> None:
    """The bake is refused, and it says why."""
    if isinstance(result, str):
        assert "lower train.lr" in result
        return
    assert result.verdict.outcome != EQUIVALENT, result.kl
    assert result.verdict.reasons
    assert all("gap closed" in line or "gap_closed" in line for line in result.verdict.reasons)
    assert result.passed == (result.verdict.outcome != "failed")


TRAINED: dict[str, dict[str, Any]] = {
    "hardly a learning rate": {"train__lr": 1e-9},
    "a fiftieth of the learning rate": {"train__lr": 1e-4},
    "100 times the learning rate": {"train__lr": 0.5},
    "one step": {"train__batch_size": 64, "train__epochs": 1},
    "a quarter of the steps": {"train__epochs": 1},
    "half the steps": {"train__epochs": 2},
    "one token of the teacher's, the tail dropped": {"teacher__top_k": 1, "train__tail": "drop"},
    "plain fine-tuning on few responses": {"train__loss": "cross_entropy"},
}


@pytest.mark.usefixtures("bakes")
@pytest.mark.parametrize("settings", TRAINED.values(), ids=TRAINED)
def test_a_badly_trained_bake_is_refused(settings: Mapping[str, Any]) -> None:
    shutil.copytree("data", "mine")
    promptbake.bake(PIRATE, **job("mine", **settings))
    check_refused(judged(**settings))


OTHERS: dict[str, tuple[Prompt, dict[str, Any]]] = {
    "of another prompt": (LAWYER, {}),
    "of a third prompt": (HOST, {}),
    "fine-tuned on the base model's answers": (NOBODY, {"train__loss": "cross_entropy"}),
    "of no prompt": (NOBODY, {}),
    "on one query, too hard": (
        PIRATE,
        {"data__queries": "one.txt", "train__epochs": 16, "train__lr": 2e-2},
    ),
}


@pytest.mark.usefixtures("bakes")
@pytest.mark.parametrize(("prompt", "settings"), OTHERS.values(), ids=OTHERS)
def test_the_adapter_of_another_bake_is_refused(prompt: Prompt, settings: dict[str, Any]) -> None:
    promptbake.data(prompt, **job("other", **settings))
    promptbake.bake(prompt, **job("other", **settings))
    shutil.copytree("good", "mine")
    shutil.rmtree("mine/adapter")
    shutil.copytree("other/adapter", "mine/adapter")
    record_as_baked(Path("mine"))
    check_refused(judged())


def scaled(factor: float) -> Callable[[str, Tensor], Tensor]:
    return lambda name, tensor: tensor * (factor if "lora_B" in name else 1)


def noisy(share: float) -> Callable[[str, Tensor], Tensor]:
    """With noise of this size beside the weights' own."""
    generator = torch.Generator().manual_seed(0)

    def edit(name: str, tensor: Tensor) -> Tensor:
        return tensor + share * tensor.std() * torch.randn(tensor.shape, generator=generator)

    return edit


def layer_1_alone(name: str, tensor: Tensor) -> Tensor:
    return tensor if "layers.1." in name else torch.zeros_like(tensor)


def rows_moved(name: str, tensor: Tensor) -> Tensor:
    return tensor.roll(1, dims=0)


def signs_alone(name: str, tensor: Tensor) -> Tensor:
    return tensor.sign() * tensor.abs().mean() * 4


EDITED: dict[str, Callable[[str, Tensor], Tensor]] = {
    "nothing": scaled(0.0),
    "a tenth of the change": scaled(0.1),
    "half the change": scaled(0.5),
    "three times the change": scaled(3.0),
    "the opposite change": scaled(-1.0),
    "noise": noisy(3.0),
    "one layer of three": layer_1_alone,
    "the rows of the matrices moved": rows_moved,
    "the signs alone": signs_alone,
}


@pytest.mark.usefixtures("bakes")
@pytest.mark.parametrize("edit", EDITED.values(), ids=EDITED)
def test_a_damaged_adapter_is_refused(edit: Callable[[str, Tensor], Tensor]) -> None:
    shutil.copytree("good", "mine")
    file = Path("mine/adapter/adapter_model.safetensors")
    weights: Weights = load_file(file)
    save_file({name: edit(name, tensor).contiguous() for name, tensor in weights.items()}, file)
    record_as_baked(Path("mine"))
    check_refused(judged())


@pytest.mark.usefixtures("bakes")
def test_fine_tuning_on_responses_to_other_queries_is_refused() -> None:
    shutil.copytree("data", "mine")
    file = Path("mine/data.jsonl")
    lines = [json.loads(line) for line in file.read_text("utf-8").splitlines()]
    answers = [line["messages"][-1]["content"] for line in lines]
    for line, answer in zip(lines, [*answers[5:], *answers[:5]], strict=True):
        line["messages"][-1]["content"] = answer
        del line["check"]
    file.write_text("".join(json.dumps(seal(line)) + "\n" for line in lines), "utf-8")
    settings = {"train__loss": "cross_entropy"}
    promptbake.bake(PIRATE, **job("mine", **settings))
    check_refused(judged(**settings))


def test_there_are_twenty_bad_bakes() -> None:
    assert len(TRAINED) + len(OTHERS) + len(EDITED) + 1 >= 20


@pytest.mark.usefixtures("bakes")
def test_of_twenty_good_bakes_nineteen_are_accepted() -> None:
    """Five prompts and seeds, each baked in four ways on its data."""
    ways: tuple[dict[str, Any], ...] = (
        {},
        {"train__rank": 8},
        {"train__tail": "bucket"},
        {"train__epochs": 5},
    )
    outcomes = []
    for prompt, seed in ((PIRATE, 0), (PIRATE, 1), (LAWYER, 2), (HOST, 3), (HOST, 4)):
        shutil.rmtree("other", ignore_errors=True)
        promptbake.data(prompt, **job("other", seed=seed))
        for way in ways:
            shutil.rmtree("mine", ignore_errors=True)
            shutil.copytree("other", "mine")
            promptbake.bake(prompt, **job("mine", seed=seed, **way))
            outcomes.append(judged(prompt, seed=seed, **way))
    accepted = [each for each in outcomes if not isinstance(each, str) and each.passed
                and each.verdict.outcome == EQUIVALENT]  # fmt: skip
    assert len(outcomes) == 20
    assert len(accepted) >= 19, [str(each)[:300] for each in outcomes if each not in accepted]
