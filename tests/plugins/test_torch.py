"""The backend `torch` under the conformance suite, and its results against plain transformers."""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import peft
import pytest
import torch
from torch_models import OBJECTIVE, SYSTEM, examples, plain_logprobs, prompts, spans, train

from promptbake import (
    Backend,
    BakeError,
    ChatRenderer,
    Checkpoint,
    Message,
    SampleWork,
    TrainWork,
)
from promptbake.testing import BackendSuite, save_tiny, tiny_model, tiny_tokenizer
from promptbake_torch import (
    HubLoader,
    LoraSettings,
    LoraTrainer,
    TorchModel,
    make_engine,
    torch_backend,
)
from promptbake_torch.few_rows import FewRows
from promptbake_torch.support_logprobs import support_logprobs


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    return [save_tiny(tmp_path_factory.mktemp("model"), seed) for seed in (0, 1)]


class TestTorchBackend(BackendSuite):
    tolerance = 1e-4

    @pytest.fixture
    def backend(self) -> Backend:
        return torch_backend(device="cpu")

    @pytest.fixture
    def model_name(self, folders: list[Path]) -> str:
        return str(folders[0])

    @pytest.fixture
    def other_model_name(self, folders: list[Path]) -> str:
        return str(folders[1])


@pytest.fixture
def model() -> TorchModel:
    return TorchModel(make_engine(tiny_model(), tiny_tokenizer(), "tiny", "d"), None, 2)


@torch.no_grad()
@pytest.mark.parametrize("packs", [True, False])
@pytest.mark.parametrize("system", [None, SYSTEM])
def test_scoring_agrees_with_a_plain_forward_pass(
    model: TorchModel, system: str | None, packs: bool
) -> None:
    """Of rows that are scored together, and share the prompt if there is one."""
    assert model.engine.packs
    model.engine.packs = packs
    wanted = spans(model, system)
    for span, logprobs in zip(wanted, model.logprobs(wanted), strict=True):
        torch.testing.assert_close(logprobs, plain_logprobs(tiny_model(), span))


def test_the_top_k_is_sorted_and_the_draws_follow_the_tail(model: TorchModel) -> None:
    span = spans(model)[:1]
    (whole,) = model.logprobs(span)
    ((_, scores),) = model.top_k(span, k=5, draws=20_000, seeds=[1])
    torch.testing.assert_close(scores.logprobs, whole.sort(dim=1, descending=True).values[:, :5])
    torch.testing.assert_close(scores.drawn_logprobs, whole.gather(1, scores.drawn_ids))
    tail = whole.exp().scatter(1, scores.ids, 0.0)
    expected = tail / tail.sum(dim=1, keepdim=True)
    counts = [row.bincount(minlength=whole.shape[1]) for row in scores.drawn_ids]
    shares = torch.stack(counts) / 20_000
    assert bool((shares.gather(1, scores.ids) == 0).all())
    assert (shares - expected).abs().max() < 0.015


def test_the_whole_vocabulary_leaves_nothing_to_draw(model: TorchModel) -> None:
    ((_, scores),) = model.top_k(spans(model)[:1], k=10_000, draws=4, seeds=[1])
    assert scores.ids.shape[1] == len(tiny_tokenizer())
    assert scores.drawn_ids.shape[1] == 0


def test_samples_follow_the_models_distribution(model: TorchModel) -> None:
    prompt, n = prompts(model)[0], 1_000
    wide = TorchModel(model.engine, None, sample_batch=n)
    samples = wide.sample([prompt] * n, max_tokens=1, temperatures=[0.7] * n, seeds=range(n))
    end = max(model.renderer.stop_ids)
    tokens = torch.tensor([next(iter(completion.tokens), end) for _, completion in samples])
    shares = tokens.bincount(minlength=len(tiny_tokenizer())) / n
    with torch.no_grad():
        logits = tiny_model()(input_ids=torch.tensor([prompt])).logits[0, -1]
    assert (shares - (logits / 0.7).softmax(dim=0)).abs().max() < 0.03


def test_rows_that_have_ended_leave_the_batch(model: TorchModel) -> None:
    """And those that stay are sampled as they would be alone."""
    n = 24
    wanted, seeds = (prompts(model) * n)[:n], range(n)
    options: dict[str, Any] = {"max_tokens": 64, "temperatures": [1.0] * n, "seeds": seeds}
    alone = [each for _, each in TorchModel(model.engine, None, 1).sample(wanted, **options)]
    together = [each for _, each in TorchModel(model.engine, None, n).sample(wanted, **options)]
    assert alone == together
    assert len({len(each.tokens) for each in together}) > 4


def test_switching_adapters_is_seen(model: TorchModel, tmp_path: Path) -> None:
    """The base model is the same before and after a LoRA beside it is trained."""
    wanted = spans(model)
    before = list(model.logprobs(wanted))
    trainer = LoraTrainer(model, "torch", LoraSettings(), rank=4, seed=1)
    train(trainer, examples(model), steps=2, lr=1e-2)
    student = trainer.snapshot().result()
    for first, again, baked in zip(
        before, model.logprobs(wanted), student.logprobs(wanted), strict=True
    ):
        torch.testing.assert_close(again, first, rtol=0, atol=0)
        assert (baked - first).abs().max() > 0.01


@torch.inference_mode()
@pytest.mark.parametrize("shape", [(3, 5, 16), (300, 1, 16), (16,)])
def test_a_few_rows_are_multiplied_in_the_other_order(shape: tuple[int, ...]) -> None:
    rows, linear = torch.randn(shape), torch.nn.Linear(16, 7)
    plain = linear(rows)
    with FewRows():
        torch.testing.assert_close(linear(rows), plain)


# --- training


def gradients(model: TorchModel) -> Iterator[tuple[str, torch.Tensor]]:
    for name, parameter in model.engine.module.named_parameters():
        if parameter.grad is not None:
            yield name, parameter.grad.clone()


def test_the_gradient_of_a_support_is_autograds() -> None:
    logits = torch.randn(6, 7, dtype=torch.float64, requires_grad=True)
    ids = torch.randint(7, (6, 4))  # some twice
    torch.testing.assert_close(support_logprobs(logits, ids), logits.log_softmax(1).gather(1, ids))
    assert torch.autograd.gradcheck(lambda each: support_logprobs(each, ids), logits)


def test_a_batch_of_several_passes_has_the_gradient_of_one(model: TorchModel) -> None:
    trainer = LoraTrainer(model, "torch", LoraSettings(), rank=4, seed=1)
    results = []
    for cells in (2**24, 1):
        trainer.logit_cells = cells
        loss = trainer.forward_backward(examples(model), OBJECTIVE).result()
        results.append([torch.tensor(loss), *(each for _, each in gradients(model))])
        model.engine.module.zero_grad()
    for whole, parts in zip(*results, strict=True):
        torch.testing.assert_close(parts, whole, rtol=1e-4, atol=1e-7)


@pytest.mark.parametrize("packs", [True, False])
def test_the_gradient_is_that_of_the_mean_over_response_tokens(
    model: TorchModel, packs: bool
) -> None:
    model.engine.packs = packs
    batch = examples(model)
    trainer = LoraTrainer(model, "torch", LoraSettings(), rank=4, seed=1)
    loss = trainer.forward_backward(batch, OBJECTIVE).result()
    computed = dict(gradients(model))
    model.engine.module.zero_grad()
    nats = []
    for example in batch:
        logprobs = plain_logprobs(model.engine.module, example.datum.student)
        nats.append(OBJECTIVE.nats(logprobs.gather(1, example.support.ids), example.support))
    expected = torch.cat(nats).mean()
    expected.backward()  # type: ignore[no-untyped-call]
    assert loss == pytest.approx(expected.item(), rel=1e-4)
    assert computed
    torch.testing.assert_close(computed, dict(gradients(model)), rtol=1e-3, atol=1e-6)


def test_a_saved_adapter_is_peft_and_is_what_was_trained(model: TorchModel, tmp_path: Path) -> None:
    trainer = LoraTrainer(model, "torch", LoraSettings(frozen_share=0.34), rank=4, seed=1)
    train(trainer, examples(model), steps=3, lr=1e-2)
    checkpoint = trainer.save_adapter(tmp_path)
    assert (checkpoint.backend, checkpoint.base_model) == ("torch", "tiny")
    span = spans(model, None)[0]
    (trained,) = trainer.snapshot().result().logprobs([span])
    loaded = peft.PeftModel.from_pretrained(tiny_model(), str(tmp_path))
    with torch.no_grad():
        torch.testing.assert_close(plain_logprobs(loaded, span), trained)
    assert ".layers.0." not in (tmp_path / "adapter_config.json").read_text()


@pytest.mark.parametrize(("share", "layers"), [(0.0, "012"), (0.34, "12"), (0.67, "2")])
def test_frozen_layers_get_no_lora(model: TorchModel, share: float, layers: str) -> None:
    trainer = LoraTrainer(model, "torch", LoraSettings(frozen_share=share), rank=4, seed=1)
    trained = trainer.save_state(0).result()["adapter_model.safetensors"]
    assert {n for n in "012" if f".layers.{n}.".encode() in trained} == set(layers)


@pytest.mark.parametrize("settings", [LoraSettings(frozen_share=0.34), LoraSettings(alpha=8.0)])
def test_a_start_with_other_settings_is_refused(
    model: TorchModel, tmp_path: Path, settings: LoraSettings
) -> None:
    LoraTrainer(model, "torch", LoraSettings(), rank=4, seed=1).save_adapter(tmp_path)
    start = Checkpoint("torch", "tiny", "d", str(tmp_path))
    with pytest.raises(BakeError, match="other layers, another rank or another alpha"):
        LoraTrainer(model, "torch", settings, rank=4, seed=2, start=start)


# --- loading and rendering


def test_a_folder_opens_and_another_model_has_another_digest(
    folders: list[Path], tmp_path: Path
) -> None:
    one, again, other = (HubLoader("cpu", "auto")(str(folders[n])) for n in (0, 0, 1))
    assert one.digest == again.digest != other.digest
    model = TorchModel(one, None, 2)
    LoraTrainer(model, "torch", LoraSettings(), rank=4, seed=1).save_adapter(tmp_path)
    peft.AutoPeftModelForCausalLM.from_pretrained(tmp_path)  # which finds the base model itself
    (logprobs,) = model.logprobs(spans(model)[:1])
    with torch.no_grad():
        torch.testing.assert_close(logprobs, plain_logprobs(tiny_model(), spans(model)[0]))


@pytest.mark.parametrize(
    ("file", "change"),
    [
        ("model.safetensors", lambda content: content[:-999] + b"?" + content[-998:]),
        ("tokenizer_config.json", lambda content: content + b" "),
        ("chat_template.jinja", lambda content: content + b" "),
    ],
)
def test_the_digest_covers_every_byte_and_is_known_without_loading(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, file: str, change: Callable[[bytes], bytes]
) -> None:
    monkeypatch.setenv("PROMPTBAKE_CACHE", str(tmp_path / "cache"))
    loader, folder = HubLoader("cpu", "auto"), save_tiny(tmp_path / "model", 0)
    (folder / "README.md").touch()
    for path in folder.iterdir():
        os.utime(path, (1, 1))
    before = loader.digest(str(folder))
    assert before == loader(str(folder)).digest == loader.digest(str(folder))
    (folder / "README.md").write_text("changed")
    assert loader.digest(str(folder)) == before
    content = (folder / file).read_bytes()
    (folder / file).write_bytes(change(content))
    os.utime(folder / file, (1, 1))  # as a careful copy leaves it
    changed = loader.digest(str(folder))
    (folder / file).write_bytes(content)
    assert changed != before == loader.digest(str(folder))


def test_a_digest_is_computed_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PROMPTBAKE_CACHE", str(tmp_path / "cache"))
    weights = tmp_path / "model" / "model.safetensors"
    weights.parent.mkdir()
    weights.write_bytes(b"0" * 10)
    young, loader = HubLoader("cpu", "auto").digest(str(weights.parent)), HubLoader("cpu", "auto")
    assert not (tmp_path / "cache").exists()  # it may change again within one time stamp
    time.sleep(2.1)
    assert loader.digest(str(weights.parent)) == young
    (remembered,) = (tmp_path / "cache" / "digests").iterdir()
    remembered.write_text("0" * 64)
    assert loader.digest(str(weights.parent)) != young  # read from there
    remembered.write_text("no digest")
    assert loader.digest(str(weights.parent)) == young


def test_a_hub_id_is_told_by_its_revision(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path))
    loader, digests = HubLoader("cpu", "auto"), []
    for revision in ("a" * 40, "b" * 40):
        digests.append(loader.digest("org/model"))
        snapshot = tmp_path / "models--org--model" / "snapshots" / revision
        snapshot.mkdir(parents=True)
        (snapshot / "config.json").touch()
        refs = tmp_path / "models--org--model" / "refs"
        refs.mkdir(exist_ok=True)
        (refs / "main").write_text(revision)
    digests.append(loader.digest("org/model"))
    assert digests[0] is None
    assert digests[1] != digests[2]
    assert loader.digest("no/hub/id") is None


def test_bfloat16_samples_and_trains(folders: list[Path]) -> None:
    engine = HubLoader("cpu", "bfloat16")(str(folders[0]))
    assert engine.module.dtype == torch.bfloat16
    model = TorchModel(engine, None, 2)
    samples = model.sample(prompts(model), max_tokens=8, temperatures=[1.0] * 3, seeds=[1, 2, 3])
    assert all(completion.tokens for _, completion in samples)
    trainer = LoraTrainer(model, "torch", LoraSettings(), rank=4, seed=1)
    losses = train(trainer, examples(model), steps=40, lr=1e-2)
    assert losses[-1] < 0.5 * losses[0]
    lora = [each.dtype for each in engine.module.parameters() if each.requires_grad]
    assert set(lora) == {torch.float32}


def test_a_folder_without_a_model_is_refused(tmp_path: Path) -> None:
    with pytest.raises(BakeError, match="is no causal language model"):
        HubLoader("cpu", "auto")(str(tmp_path))


def test_an_unknown_device_is_refused(folders: list[Path]) -> None:
    with pytest.raises(BakeError, match=r"options\.backends\.torch\.device = 'abacus'"):
        HubLoader("abacus", "auto")(str(folders[0]))


def test_without_a_system_message_the_template_inserts_its_own(model: TorchModel) -> None:
    assert model.warnings == ()
    plain, prompted = (tiny_tokenizer().decode(prompts(model, s)[0]) for s in (None, SYSTEM))
    assert ("Be kind." in plain, SYSTEM in plain) == (True, False)
    assert ("Be kind." in prompted, SYSTEM in prompted) == (False, True)


def test_a_template_without_a_system_role_gets_the_prompt_in_the_first_turn() -> None:
    tokenizer = tiny_tokenizer()
    tokenizer.chat_template = (
        "{% for m in messages %}{% if m['role'] == 'system' %}"
        "{{ raise_exception('System role not supported') }}{% endif %}"
        "<|im_start|>{{ m['role'] }}\n{{ m['content'] }}<|im_end|>\n{% endfor %}"
        "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
    )
    model = TorchModel(make_engine(tiny_model(), tokenizer, "tiny", "d"), None, 2)
    assert "no system role" in model.warnings[0]
    turns = (Message("user", "Hi"), Message("assistant", "Yo"), Message("user", "Bye"))
    assert tokenizer.decode(model.renderer.prompt(turns, "Be brief.")).startswith(
        "<|im_start|>user\nBe brief.\n\nHi<|im_end|>\n<|im_start|>assistant\nYo<|im_end|>"
    )
    examples = "Be brief.\n[user]\nHi\n[assistant]\nYo"
    assert model.renderer.prompt(turns[2:], examples) == model.renderer.prompt(turns, "Be brief.")


@pytest.mark.parametrize("inner", ["{% for j in range(99999) %}{% endfor %}", "{{ f() }}"])
def test_a_template_that_does_not_end_is_refused(inner: str) -> None:
    tokenizer = tiny_tokenizer()
    macro = "{% macro f() %}{% for j in range(99999) %}{{ j }}{% endfor %}{% endmacro %}"
    tokenizer.chat_template = macro + "{% for i in range(99999) %}" + inner + "{% endfor %}"
    trace = sys.gettrace()
    with pytest.raises(BakeError, match=r"model tiny: its chat template takes more than 0\.2 s"):
        ChatRenderer(tokenizer, "tiny", frozenset(), template_seconds=0.2)
    assert sys.gettrace() is trace


def test_a_tokenizer_without_a_template_is_refused() -> None:
    tokenizer = tiny_tokenizer()
    tokenizer.chat_template = None
    with pytest.raises(BakeError, match="no chat template"):
        make_engine(tiny_model(), tokenizer, "tiny", "d")


def test_memory_grows_with_the_rows_of_a_batch_and_their_length(model: TorchModel) -> None:
    works = [
        *(SampleWork(((8, 8),) * n) for n in (1, 2, 9)),  # two at a time
        *(TrainWork(((n, 8),) * 4, steps=2) for n in (16, 64)),
        *(TrainWork(((16, 8),) * 4, steps=n) for n in (4, 1)),
    ]
    one, two, many, short, long, single, whole = (
        model.estimate_cost(work).memory_bytes or 0.0 for work in works
    )
    assert 0 < one < two == many
    assert single < short < min(long, whole)
