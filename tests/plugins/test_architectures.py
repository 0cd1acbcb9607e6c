"""The torch backend scores, samples and trains whatever transformers loads as a causal model."""

from __future__ import annotations

from typing import Any

import pytest
import torch
import transformers
from torch_models import examples, plain_logprobs, spans, train

from promptbake import Span
from promptbake.testing import tiny_tokenizer
from promptbake_torch import LoraSettings, LoraTrainer, TorchModel, make_engine

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


@pytest.fixture(params=ARCHITECTURES, scope="module")
def module(request: pytest.FixtureRequest) -> Any:
    torch.manual_seed(0)
    module = transformers.AutoModelForCausalLM.from_config(ARCHITECTURES[request.param])
    for parameter in module.parameters():  # far from the uniform distribution
        if parameter.dim() == 2:
            parameter.data.normal_(std=0.2)
    return module.eval()


@pytest.fixture
def model(module: Any) -> TorchModel:
    return TorchModel(make_engine(module, tiny_tokenizer(), "m", "d"), None, sample_batch=2)


def test_a_prefix_is_shared_where_attention_allows(
    model: TorchModel, request: pytest.FixtureRequest
) -> None:
    name = request.node.callspec.params["module"]
    assert model.engine.shares_prefixes == ("sliding windows" not in name)


def test_rows_are_packed_where_the_layers_only_attend(model: TorchModel) -> None:
    assert model.engine.packs


def test_rows_are_not_packed_where_a_layer_has_a_state() -> None:
    config = transformers.MambaConfig(
        vocab_size=258, hidden_size=32, num_hidden_layers=2, state_size=8, eos_token_id=256
    )
    module = transformers.AutoModelForCausalLM.from_config(config)
    assert not make_engine(module.eval(), tiny_tokenizer(), "m", "d").packs


@torch.no_grad()
def test_scores_and_samples_are_those_of_plain_forward_passes(
    model: TorchModel, module: Any
) -> None:
    wanted = spans(model)
    for span, logprobs in zip(wanted, model.logprobs(wanted), strict=True):  # scored together
        expected = plain_logprobs(module, span)
        torch.testing.assert_close(logprobs, expected, rtol=1e-4, atol=1e-4)
    prompts = [span.tokens[: -span.n_response] for span in wanted]
    samples = model.sample(prompts, max_tokens=5, temperatures=[0.0] * 3, seeds=[0] * 3)
    for prompt, (_, completion) in zip(prompts, samples, strict=True):
        if completion.tokens:
            greedy = plain_logprobs(
                module, Span(prompt + completion.tokens, len(completion.tokens))
            ).argmax(dim=1)
            assert completion.tokens == tuple(greedy.tolist())


@pytest.mark.filterwarnings("ignore:fan_in_fan_out is set to False")  # peft corrects it itself
@pytest.mark.filterwarnings(
    "ignore:The following (rank|alpha)_pattern keys"
)  # experts of frozen layers
def test_it_trains(model: TorchModel) -> None:
    trainer = LoraTrainer(model, "torch", LoraSettings(frozen_share=0.34), rank=4, seed=0)
    losses = train(trainer, examples(model, k=20), steps=15, lr=1e-2)
    assert losses[-1] < 0.8 * losses[0]
