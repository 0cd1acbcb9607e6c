"""The torch backend against plain transformers: what it computes, not how."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import peft
import pytest
import torch
from torch import Tensor

from promptbake.distill.objective import TailedLoss
from promptbake.errors import BakeError
from promptbake.interfaces import Loss
from promptbake.testing.tiny import save_tiny, tiny_model, tiny_tokenizer
from promptbake.types import Datum, Example, LossSupport, Message, Span
from promptbake_losses.divergences import ForwardKL
from promptbake_torch.engine import Engine
from promptbake_torch.loading import HubLoader, make_engine
from promptbake_torch.lora import LoraSettings, LoraTrainer
from promptbake_torch.model import TorchModel

SYSTEM = "Answer like a pirate who has lost his map."
QUESTIONS = ("How are you?", "Why is the sea salty, and the rain not?", "Sing!")
SHARP = LoraSettings()


@pytest.fixture
def model() -> TorchModel:
    return TorchModel(engine(), None, sample_batch=2)


def engine(seed: int = 0) -> Engine:
    return make_engine(tiny_model(seed), tiny_tokenizer(), "tiny", "digest")


def prompts(model: TorchModel, system: str | None = SYSTEM) -> list[tuple[int, ...]]:
    return [model.renderer.prompt((Message("user", text),), system) for text in QUESTIONS]


def spans(model: TorchModel, system: str | None = SYSTEM) -> list[Span]:
    """Three sequences of different lengths with responses of different lengths."""
    responses = [model.renderer.response(text, True) for text in ("Aye.", "Salt!", "Yo ho ho ho")]
    return [
        Span(prompt + response, len(response))
        for prompt, response in zip(prompts(model, system), responses, strict=True)
    ]


def plain_logprobs(module: torch.nn.Module, span: Span) -> Tensor:
    logits = module(input_ids=torch.tensor([span.tokens])).logits[0]
    return logits[-span.n_response - 1 : -1].log_softmax(dim=1)


@torch.no_grad()
@pytest.mark.parametrize("system", [None, SYSTEM])
def test_scoring_agrees_with_a_plain_forward_pass(model: TorchModel, system: str | None) -> None:
    asked = spans(model, system)
    for span, logprobs in zip(asked, model.logprobs(asked), strict=True):
        torch.testing.assert_close(logprobs, plain_logprobs(tiny_model(), span))


@torch.no_grad()
def test_rows_that_share_a_prompt_score_as_they_do_alone(model: TorchModel) -> None:
    asked = spans(model)
    together = model._logits(asked)
    for span, logits in zip(asked, together, strict=True):
        torch.testing.assert_close(logits.log_softmax(1), plain_logprobs(tiny_model(), span))


def test_the_top_k_is_sorted_and_the_draws_follow_the_tail(model: TorchModel) -> None:
    span = spans(model)[:1]
    (whole,) = model.logprobs(span)
    ((_, targets),) = model.top_k(span, k=5, draws=20_000, seeds=[1])
    torch.testing.assert_close(targets.logprobs, whole.sort(dim=1, descending=True).values[:, :5])
    torch.testing.assert_close(targets.drawn_logprobs, whole.gather(1, targets.drawn_ids))
    tail = whole.exp().scatter(1, targets.ids, 0.0)
    expected = tail / tail.sum(dim=1, keepdim=True)
    found = torch.stack(
        [row.bincount(minlength=whole.shape[1]) / len(row) for row in targets.drawn_ids]
    )
    assert bool((found.gather(1, targets.ids) == 0).all())
    assert (found - expected).abs().max() < 0.015


def test_all_of_the_vocabulary_leaves_nothing_to_draw(model: TorchModel) -> None:
    ((_, targets),) = model.top_k(spans(model)[:1], k=10_000, draws=4, seeds=[1])
    assert targets.ids.shape[1] == len(tiny_tokenizer())
    assert targets.drawn_ids.shape[1] == 0


def sample(
    model: TorchModel, temperature: float, seeds: Sequence[int], max_tokens: int = 8
) -> list[tuple[int, ...]]:
    asked = prompts(model)
    completions = model.sample(
        asked, max_tokens=max_tokens, temperatures=[temperature] * 3, seeds=seeds
    )
    return [completion.tokens for _, completion in completions]


def test_samples_follow_the_models_distribution(model: TorchModel) -> None:
    prompt = prompts(model)[0]
    n = 4_000
    wide = TorchModel(model.engine, None, sample_batch=n)
    drawn = wide.sample([prompt] * n, max_tokens=1, temperatures=[0.7] * n, seeds=range(n))
    tokens = torch.tensor([next(iter(one.tokens), wide.renderer._end) for _, one in drawn])
    found = tokens.bincount(minlength=len(tiny_tokenizer())) / n
    with torch.no_grad():
        logits = tiny_model()(input_ids=torch.tensor([prompt])).logits[0, -1]
    assert (found - (logits / 0.7).softmax(dim=0)).abs().max() < 0.03


def test_a_stream_is_the_sample_token_by_token(model: TorchModel) -> None:
    alone = list(model.stream(prompts(model)[0], max_tokens=8, temperature=1.0, seed=1))
    completions = model.sample(prompts(model)[:1], max_tokens=8, temperatures=[1.0], seeds=[1])
    assert [tuple(alone)] == [completion.tokens for _, completion in completions]


def test_a_prompt_longer_than_the_context_is_refused() -> None:
    small = make_engine(tiny_model(context_tokens=64), tiny_tokenizer(), "tiny", "d")
    model = TorchModel(small, None, 2)
    with pytest.raises(BakeError, match="does not fit its context of 64"):
        list(model.sample(prompts(model), max_tokens=9, temperatures=[1] * 3, seeds=[1] * 3))


# --- training


def examples(model: TorchModel) -> list[Example]:
    found = []
    for student, teacher in zip(spans(model, None), spans(model), strict=True):
        datum = Datum("c", "q", student.tokens, teacher.tokens, student.n_response)
        ((_, targets),) = model.top_k([teacher], k=10, draws=0, seeds=[0])
        found.append(Example(datum, OBJECTIVE.columns(datum, targets)))
    return found


OBJECTIVE = TailedLoss(ForwardKL(), "bucket")


def test_the_gradient_is_that_of_the_mean_over_response_tokens(model: TorchModel) -> None:
    batch = examples(model)
    trainer = LoraTrainer(model, "torch", SHARP, rank=4, seed=1)
    loss = trainer.forward_backward(batch, OBJECTIVE).result()
    found = {
        name: parameter.grad.clone()
        for name, parameter in model.engine.module.named_parameters()
        if parameter.grad is not None
    }
    assert found
    model.engine.module.zero_grad()
    nats = []
    for example in batch:
        logprobs = plain_logprobs(model.engine.module, example.datum.student)
        nats.append(OBJECTIVE.nats(logprobs.gather(1, example.columns.ids), example.columns))
    expected = torch.cat(nats).mean()
    expected.backward()  # type: ignore[no-untyped-call]
    assert loss == pytest.approx(expected.item(), rel=1e-4)
    for name, parameter in model.engine.module.named_parameters():
        if name in found:
            assert parameter.grad is not None
            torch.testing.assert_close(found[name], parameter.grad, rtol=1e-3, atol=1e-6)


def test_a_saved_adapter_is_peft_and_is_what_was_trained(model: TorchModel, tmp_path: Path) -> None:
    batch = examples(model)
    trainer = LoraTrainer(model, "torch", LoraSettings(frozen_share=0.34), rank=4, seed=1)
    for _ in range(3):
        trainer.forward_backward(batch, OBJECTIVE).result()
        trainer.optim_step(1e-2).result()
    checkpoint = trainer.save_adapter(tmp_path)
    assert (checkpoint.backend, checkpoint.base_model) == ("torch", "tiny")
    span = spans(model, None)[0]
    (trained,) = trainer.snapshot().result().logprobs([span])
    loaded = peft.PeftModel.from_pretrained(tiny_model(), str(tmp_path))
    with torch.no_grad():
        torch.testing.assert_close(plain_logprobs(loaded, span), trained)
    assert not any(".layers.0." in name for name in trainer._state())


def test_the_lower_layers_get_no_lora_where_they_are_frozen(model: TorchModel) -> None:
    trainer = LoraTrainer(model, "torch", LoraSettings(frozen_share=0.67), rank=4, seed=1)
    assert {name.split(".layers.")[1][0] for name in trainer._state()} == {"2"}


# --- loading and rendering


def test_a_folder_opens_and_another_model_has_another_digest(tmp_path: Path) -> None:
    one = HubLoader("cpu", "auto")(str(save_tiny(tmp_path / "one", seed=0)))
    other = HubLoader("cpu", "auto")(str(save_tiny(tmp_path / "other", seed=1)))
    assert one.digest != other.digest
    assert one.digest == HubLoader("cpu", "auto")(str(tmp_path / "one")).digest
    span = spans(TorchModel(one, None, 2))[0]
    (logprobs,) = TorchModel(one, None, 2).logprobs([span])
    with torch.no_grad():
        torch.testing.assert_close(logprobs, plain_logprobs(tiny_model(), span))


def test_bfloat16_bakes_too(tmp_path: Path) -> None:
    half = HubLoader("cpu", "bfloat16")(str(save_tiny(tmp_path)))
    assert half.module.dtype == torch.bfloat16
    model = TorchModel(half, None, 2)
    assert all(sample(model, 1.0, [1, 2, 3]))
    trainer = LoraTrainer(model, "torch", SHARP, rank=4, seed=1)
    batch = examples(model)
    losses = []
    for _ in range(30):
        losses.append(trainer.forward_backward(batch, OBJECTIVE).result())
        trainer.optim_step(3e-3).result()
    assert losses[-1] < 0.5 * losses[0]
    assert {tensor.dtype for tensor in trainer._state().values()} == {torch.float32}


def test_a_folder_that_is_no_model_is_refused(tmp_path: Path) -> None:
    with pytest.raises(BakeError, match="is no causal language model"):
        HubLoader("cpu", "auto")(str(tmp_path))


def test_an_unknown_device_is_refused(tmp_path: Path) -> None:
    with pytest.raises(BakeError, match=r"options\.backends\.torch\.device = 'abacus'"):
        HubLoader("abacus", "auto")(str(save_tiny(tmp_path)))


def test_without_a_system_message_the_template_gives_its_own(model: TorchModel) -> None:
    assert model.warnings == ()
    text = tiny_tokenizer().decode(prompts(model, None)[0])
    assert "Be kind." in text
    assert SYSTEM not in text
    prompted = tiny_tokenizer().decode(prompts(model)[0])
    assert SYSTEM in prompted
    assert "Be kind." not in prompted


def test_a_template_without_a_system_role_folds_the_prompt_into_the_first_turn() -> None:
    tokenizer = tiny_tokenizer()
    tokenizer.chat_template = (
        "{% for m in messages %}{% if m['role'] == 'system' %}"
        "{{ raise_exception('System role not supported') }}{% endif %}"
        "<|im_start|>{{ m['role'] }}\n{{ m['content'] }}<|im_end|>\n{% endfor %}"
        "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
    )
    model = TorchModel(make_engine(tiny_model(), tokenizer, "tiny", "d"), None, 2)
    assert "no system role" in model.warnings[0]
    folded = model.renderer
    turns = (Message("user", "Hi"), Message("assistant", "Yo"), Message("user", "Bye"))
    assert tokenizer.decode(folded.prompt(turns, "Be brief.")).startswith(
        "<|im_start|>user\nBe brief.\n\nHi<|im_end|>\n<|im_start|>assistant\nYo<|im_end|>"
    )


def test_a_tokenizer_without_a_template_is_refused() -> None:
    tokenizer = tiny_tokenizer()
    tokenizer.chat_template = None
    with pytest.raises(BakeError, match="no chat template"):
        make_engine(tiny_model(), tokenizer, "tiny", "d")


def test_the_loss_protocol_is_what_the_plugin_offers() -> None:
    loss: Loss = ForwardKL()
    assert OBJECTIVE.nats(torch.zeros(1, 1), LossSupport(*([torch.zeros(1, 1)] * 3))).shape == (1,)
    assert loss.linear
