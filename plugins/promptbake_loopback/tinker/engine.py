"""The base model, which all LoRAs share, and its forward passes in training.

Written apart from promptbake's torch backend, so that the two can be held against each other.
"""

from __future__ import annotations

import warnings
from collections import OrderedDict
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import peft
import torch
import transformers
from torch import Tensor
from torch.nn import Linear, Parameter

from promptbake_loopback.errors import UserError
from promptbake_loopback.tinker.lora import Lora, LoraShape

MAX_ROWS = 16
MAX_LOGITS = 2**26  # numbers in a batch's [B, L, V], 256 MB
MAX_SLOTS = 4
ADAPTER = "loopback-{}"


@dataclass(frozen=True, eq=False)
class Datum:
    """One row of training."""

    tokens: tuple[int, ...]  # N
    targets: Tensor  # [N, K]
    weights: Tensor  # [N, K]
    flat: bool  # the client's targets were (N,)


@dataclass(frozen=True)
class _Slot:
    """An adapter inside the module, into which weights of its shape are put."""

    name: str
    parameters: dict[str, Parameter]


class Engine:
    """A model in float32 on the CPU. One thread at a time may use it."""

    def __init__(self, name: str, alpha: float) -> None:
        module, self.tokenizer = _load(name)
        module.eval().requires_grad_(False)
        self.name = name
        self.alpha = alpha
        self.context_tokens: int = getattr(
            module.config.get_text_config(), "max_position_embeddings", 2**31
        )
        self.vocabulary: int = module.get_output_embeddings().out_features
        self._leaves = _leaves(module)
        self.head = self._leaves["unembed"][0]
        self._module = module
        self._slots: OrderedDict[LoraShape, _Slot] = OrderedDict()
        self._attached = 0

    def new_lora(self, shape: LoraShape, seed: int) -> Lora:
        """A fresh LoRA: A is random by the seed, B is zero."""
        slot = self._attach(shape, seed)
        lora = Lora(shape, {name: value.detach() for name, value in slot.parameters.items()})
        self._detach(self._slots.pop(shape, None))
        self._keep(shape, slot)
        return lora

    def load_lora(self, shape: LoraShape, tensors: dict[str, Tensor]) -> Lora:
        """A LoRA with weights that were saved before."""
        expected = {name: value.shape for name, value in self._slot(shape).parameters.items()}
        if expected != {name: value.shape for name, value in tensors.items()}:
            raise UserError(f"the checkpoint's LoRA does not fit the model {self.name}")
        return Lora(shape, tensors)

    @contextmanager
    def using(self, lora: Lora | None) -> Iterator[Any]:
        """The module with a LoRA, or bare. Gradients go to the LoRA."""
        if lora is None:
            if isinstance(self._module, peft.PeftModel):
                with self._module.disable_adapter():
                    yield self._module
            else:
                yield self._module
            return
        slot = self._slot(lora.shape)
        self._module.set_adapter(slot.name)
        for name, inside in slot.parameters.items():
            inside.data = lora.parameters[name].data
            inside.grad = lora.parameters[name].grad
        try:
            yield self._module
        finally:
            for name, inside in slot.parameters.items():
                lora.parameters[name].grad, inside.grad = inside.grad, None

    def score(self, lora: Lora, data: Sequence[Datum], *, backward: bool) -> list[Tensor]:
        """Log-probabilities [N, K] of each datum's targets.

        With `backward` the gradient of the sum of -logprob * weight is added to the LoRA's.
        """
        found: list[Tensor] = []
        for batch in self._batches(data):
            with self.using(lora) as module, torch.set_grad_enabled(backward):
                logprobs = _logprobs(module, batch)
                if backward:
                    losses = [
                        -(row_NK * datum.weights).sum()
                        for row_NK, datum in zip(logprobs, batch, strict=True)
                    ]
                    torch.stack(losses).sum().backward()  # type: ignore[no-untyped-call]
                found += [row_NK.detach() for row_NK in logprobs]
        return found

    def _batches(self, data: Sequence[Datum]) -> Iterator[Sequence[Datum]]:
        batch: list[Datum] = []
        longest = 0
        for datum in data:
            longest = max(longest, len(datum.tokens))
            rows = len(batch) + 1
            if batch and (rows > MAX_ROWS or rows * longest * self.vocabulary > MAX_LOGITS):
                yield batch
                batch, longest = [], len(datum.tokens)
            batch.append(datum)
        if batch:
            yield batch

    def _slot(self, shape: LoraShape) -> _Slot:
        if shape not in self._slots:
            self._keep(shape, self._attach(shape, seed=0))
        self._slots.move_to_end(shape)
        return self._slots[shape]

    def _keep(self, shape: LoraShape, slot: _Slot) -> None:
        self._slots[shape] = slot
        while len(self._slots) > MAX_SLOTS:
            self._detach(self._slots.popitem(last=False)[1])

    def _attach(self, shape: LoraShape, seed: int) -> _Slot:
        name = ADAPTER.format(self._attached)
        self._attached += 1
        groups = [("attn", shape.attn), ("mlp", shape.mlp), ("unembed", shape.unembed)]
        config = peft.LoraConfig(
            task_type="CAUSAL_LM",
            r=shape.rank,
            lora_alpha=self.alpha,
            target_modules=[leaf for group, on in groups if on for leaf in self._leaves[group]],
        )
        with torch.random.fork_rng(devices=[]), warnings.catch_warnings():
            # Tied embeddings: peft warns of merging, which is never done here.
            warnings.filterwarnings("ignore", message=".*tie_word_embeddings.*")
            torch.manual_seed(seed)
            if isinstance(self._module, peft.PeftModel):
                self._module.add_adapter(name, config)
            else:
                self._module = peft.get_peft_model(self._module, config, adapter_name=name)
        self._module.eval()
        self._module.set_adapter(name)
        parameters = {
            full.replace(f".{name}.", "."): parameter
            for full, parameter in self._module.named_parameters()
            if f".{name}." in full
        }
        return _Slot(name, parameters)

    def _detach(self, slot: _Slot | None) -> None:
        if slot is not None:
            self._module.delete_adapter(slot.name)


def _load(name: str) -> tuple[Any, Any]:
    if name == "tiny":
        from promptbake.testing import tiny_model, tiny_tokenizer

        return tiny_model(), tiny_tokenizer()
    transformers.logging.disable_progress_bar()
    module = transformers.AutoModelForCausalLM.from_pretrained(
        name, dtype=torch.float32, trust_remote_code=False
    )
    return module, transformers.AutoTokenizer.from_pretrained(name, trust_remote_code=False)


def _leaves(module: Any) -> dict[str, list[str]]:
    """The names of the linear layers by the SDK's three groups."""
    head = module.get_output_embeddings()
    groups: dict[str, list[str]] = {"attn": [], "mlp": [], "unembed": []}
    for name, part in module.named_modules():
        if part is head:
            groups["unembed"].append(name)
        elif isinstance(part, Linear):
            groups["attn" if "attn" in name or "attention" in name else "mlp"].append(name)
    return groups


def _logprobs(module: Any, batch: Sequence[Datum]) -> list[Tensor]:
    """[N, K] for each datum. Padding is on the right, where no real position sees it."""
    longest = max(len(datum.tokens) for datum in batch)
    ids = torch.zeros(len(batch), longest, dtype=torch.long)
    mask = torch.zeros_like(ids)
    for row, datum in enumerate(batch):
        ids[row, : len(datum.tokens)] = torch.tensor(datum.tokens)
        mask[row, : len(datum.tokens)] = 1
    logits = module(input_ids=ids, attention_mask=mask, use_cache=False).logits.float()
    found = []
    for row, datum in enumerate(batch):
        logits_NV = logits[row, : len(datum.tokens)]
        total_N1 = logits_NV.logsumexp(dim=1, keepdim=True)
        found.append(logits_NV.gather(1, datum.targets) - total_N1)
    return found
