"""What the real SDK is given by the loopback server's tests, and what they compare it with."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import peft
import safetensors.torch
import tinker
import torch
from tinker import types
from torch import Tensor

from promptbake.testing.tiny import tiny_model, tiny_tokenizer
from promptbake_loopback.tinker import KEY, TinkerLoopback

ALPHA, RANK, SEED = 32, 4, 5
TEXT = "What is a tide, and who sends it?"
ATTN_MLP = ("q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj")


def rest(server: TinkerLoopback) -> tinker.RestClient:
    return tinker.RestClient(base_url=server.url, api_key=KEY)


def new_model(service: tinker.ServiceClient, **options: Any) -> tinker.TrainingClient:
    given = {"rank": RANK, "seed": SEED, "train_unembed": False} | options
    return service.create_lora_training_client("tiny", **given).result()


def base(service: tinker.ServiceClient) -> tinker.SamplingClient:
    return service.create_sampling_client(base_model="tiny").result()


def ids(text: str) -> list[int]:
    return [int(token) for token in tiny_tokenizer().encode(text)]


def prompt(text: str = TEXT) -> types.ModelInput:
    return types.ModelInput.from_ints(ids(text))


def datum(tokens: Sequence[int], targets: Tensor, weights: Tensor | None) -> types.Datum:
    inputs = {"target_tokens": types.TensorData.from_torch(targets)}
    if weights is not None:
        inputs["weights"] = types.TensorData.from_torch(weights)
    return types.Datum(
        model_input=types.ModelInput.from_ints(list(tokens)), loss_fn_inputs=dict(inputs)
    )


def random_datum(text: str, k: int, seed: int) -> tuple[types.Datum, Tensor, Tensor]:
    generator = torch.Generator().manual_seed(seed)
    tokens = ids(text)
    targets = torch.randint(32, 200, (len(tokens), k), generator=generator)
    weights = torch.rand(len(tokens), k, generator=generator) - 0.2  # of both signs
    return datum(tokens, targets, weights), targets, weights


def saved(state: Path, path: str) -> dict[str, Tensor]:
    """A checkpoint's LoRA, from the state folder."""
    folder = state / "runs" / path.removeprefix("tinker://")
    return safetensors.torch.load_file(folder / "lora.safetensors")


def trained(training: tinker.TrainingClient, steps: int = 1) -> None:
    """Change the weights."""
    for step in range(steps):
        training.forward_backward([random_datum(TEXT, 3, step)[0]], "cross_entropy")
        training.optim_step(types.AdamParams(learning_rate=0.03))


def reference(tensors: dict[str, Tensor], modules: Sequence[str] = ATTN_MLP) -> Any:
    """The tiny model with a LoRA, by peft alone."""
    config = peft.LoraConfig(
        task_type="CAUSAL_LM", r=RANK, lora_alpha=ALPHA, target_modules=list(modules)
    )
    model = peft.get_peft_model(tiny_model(), config)
    loaded = peft.set_peft_model_state_dict(model, tensors)
    assert not loaded.unexpected_keys
    return model.eval()


def logprobs(model: Any, tokens: Sequence[int]) -> Tensor:
    scores: Tensor = model(input_ids=torch.tensor([tokens])).logits[0].log_softmax(dim=1)
    return scores
