"""The torch backend scores, samples and trains whatever transformers loads as a causal model."""

from __future__ import annotations

from typing import Any

import pytest
import torch
import transformers

from promptbake.distill.objective import TailedLoss
from promptbake.testing.tiny import tiny_tokenizer
from promptbake.types import Datum, Example, Message, Span
from promptbake_losses.divergences import ForwardKL
from promptbake_torch.loading import make_engine
from promptbake_torch.lora import LoraSettings, LoraTrainer
from promptbake_torch.model import TorchModel

SIZE = {
    "vocab_size": 258,
    "hidden_size": 32,
    "intermediate_size": 64,
    "num_hidden_layers": 3,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "head_dim": 8,
    "max_position_embeddings": 512,
    "pad_token_id": 0,
    "bos_token_id": None,
    "eos_token_id": 256,
}
GPT2 = {"vocab_size": 258, "n_embd": 32, "n_layer": 3, "n_head": 4, "n_positions": 512}
ARCHITECTURES = {
    "qwen3": transformers.Qwen3Config(**SIZE),
    "soft caps and sliding windows": transformers.Gemma2Config(**SIZE, sliding_window=24),
    "sliding windows": transformers.MistralConfig(**SIZE, sliding_window=24),
    "scaled logits": transformers.GraniteConfig(**SIZE, logits_scaling=4.0),
    "experts": transformers.Qwen3MoeConfig(
        **SIZE, num_experts=4, num_experts_per_tok=2, moe_intermediate_size=32
    ),
    "learned positions": transformers.GPT2Config(**GPT2, bos_token_id=256, eos_token_id=256),
}
SYSTEM = "Speak as a pirate would, long after the sea has dried."


@pytest.fixture(params=ARCHITECTURES, scope="module")
def module(request: pytest.FixtureRequest) -> Any:
    torch.manual_seed(0)
    config = ARCHITECTURES[request.param]
    module = transformers.AutoModelForCausalLM.from_config(config)
    for parameter in module.parameters():  # far from the uniform distribution
        if parameter.dim() == 2:
            parameter.data.normal_(std=0.2)
    return module.eval()


@pytest.fixture
def model(module: Any) -> TorchModel:
    return TorchModel(make_engine(module, tiny_tokenizer(), "m", "d"), None, sample_batch=2)


def spans(model: TorchModel, system: str | None) -> list[Span]:
    renderer = model.renderer
    texts = (("How are you?", "Aye."), ("Why?", "The salt, it burns the eyes."))
    found = []
    for question, reply in texts:
        response = renderer.response(reply, True)
        prompt = renderer.prompt((Message("user", question),), system)
        found.append(Span(prompt + response, len(response)))
    return found


def plain(module: Any, tokens: tuple[int, ...]) -> torch.Tensor:
    with torch.no_grad():
        logits: torch.Tensor = module(input_ids=torch.tensor([tokens]), use_cache=False).logits[0]
    return logits.float().log_softmax(dim=1)


def test_scores_and_samples_are_those_of_plain_forward_passes(
    model: TorchModel, module: Any
) -> None:
    asked = spans(model, SYSTEM)
    for span, alone, together in zip(
        asked, model.logprobs(asked), model._logits(asked), strict=True
    ):
        expected = plain(module, span.tokens)[-span.n_response - 1 : -1]
        torch.testing.assert_close(alone, expected, rtol=1e-4, atol=1e-4)
        torch.testing.assert_close(together.log_softmax(1), expected, rtol=1e-4, atol=1e-4)
    prompts = [span.tokens[: -span.n_response] for span in asked]
    sampled = model.sample(prompts, max_tokens=5, temperatures=[0.0, 0.0], seeds=[0, 0])
    for prompt, (_, completion) in zip(prompts, sampled, strict=True):
        ids = prompt
        for token in completion.tokens:
            assert plain(module, ids)[-1].argmax() == token
            ids = (*ids, token)


@pytest.mark.filterwarnings("ignore:fan_in_fan_out is set to False")  # peft mends it itself
@pytest.mark.filterwarnings(
    "ignore:The following (rank|alpha)_pattern keys"
)  # experts of frozen layers
def test_it_trains(module: Any) -> None:
    model = TorchModel(make_engine(module, tiny_tokenizer(), "m", "d"), None, sample_batch=2)
    loss = TailedLoss(ForwardKL(), "sampled")
    sides = list(zip(spans(model, None), spans(model, SYSTEM), strict=True))
    examples = []
    for student, teacher in sides:
        datum = Datum("c", "q", student.tokens, teacher.tokens, student.n_response)
        ((_, targets),) = model.top_k([teacher], k=20, draws=4, seeds=[0])
        examples.append(Example(datum, loss.columns(datum, targets)))
    trainer = LoraTrainer(model, "torch", LoraSettings(frozen_share=0.34), rank=4, seed=0)
    losses = []
    for _ in range(15):
        losses.append(trainer.forward_backward(examples, loss).result())
        trainer.optim_step(1e-2).result()
    assert losses[-1] < 0.8 * losses[0]
