"""A Llama model's GGUF file as a Hugging Face folder: float32 weights and configuration."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from gguf import GGUFReader
from gguf.quants import dequantize

if TYPE_CHECKING:
    from numpy.typing import NDArray
    from transformers import LlamaConfig

THREADS = 2
WEIGHTS = "model.safetensors"
SETTINGS = {  # the configuration's names of the fields that begin with "llama."
    "attention.head_count": "num_attention_heads",
    "attention.head_count_kv": "num_key_value_heads",
    "attention.layer_norm_rms_epsilon": "rms_norm_eps",
    "block_count": "num_hidden_layers",
    "context_length": "max_position_embeddings",
    "embedding_length": "hidden_size",
    "feed_forward_length": "intermediate_size",
    "rope.dimension_count": "head_dim",
    "rope.freq_base": "rope_theta",
    "vocab_size": "vocab_size",
}
TOKENS = {"bos": "bos", "eos": "eos", "padding": "pad", "unknown": "unk"}
MODEL = {"token_embd": "embed_tokens", "output_norm": "norm"}
LAYER = {
    "attn_norm": "input_layernorm",
    "attn_q": "self_attn.q_proj",
    "attn_k": "self_attn.k_proj",
    "attn_v": "self_attn.v_proj",
    "attn_output": "self_attn.o_proj",
    "ffn_norm": "post_attention_layernorm",
    "ffn_gate": "mlp.gate_proj",
    "ffn_up": "mlp.up_proj",
    "ffn_down": "mlp.down_proj",
}


class Reader(GGUFReader):  # type: ignore[misc]  # gguf is not typed
    """GGUFReader on a plain array of bytes: slicing a memmap makes it twice as slow."""

    @property
    def data(self) -> NDArray[np.uint8]:
        """The file's bytes, [bytes]."""
        return self._bytes

    @data.setter
    def data(self, value: NDArray[np.uint8]) -> None:
        self._bytes = np.asarray(value)


def save_llama(reader: GGUFReader, target: Path) -> None:
    """Write model.safetensors, config.json and generation_config.json into the folder `target`.

    The head is tied to the embeddings.

    Raises:
        RuntimeError: The file is another architecture than Llama's, or has a setting or a tensor
            that is not known here, or lacks one.
    """
    from safetensors.numpy import save_file
    from transformers import GenerationConfig

    config = llama_config(reader)
    save_file(_weights(reader, config), target / WEIGHTS, {"format": "pt"})
    config.save_pretrained(target)
    GenerationConfig.from_model_config(config).save_pretrained(target)


def llama_config(reader: GGUFReader) -> LlamaConfig:
    """The configuration that the file's fields describe."""
    from transformers import LlamaConfig

    fields = {name: field.contents() for name, field in reader.fields.items()}
    _require_equal("architecture", {fields["general.architecture"]}, {"llama"})
    given = {name for name in fields if name.startswith("llama.")}
    _require_equal("settings", given, {f"llama.{name}" for name in SETTINGS})
    settings: dict[str, Any] = {ours: fields[f"llama.{name}"] for name, ours in SETTINGS.items()}
    rope = {"rope_type": "default", "rope_theta": settings.pop("rope_theta")}
    for name, ours in TOKENS.items():
        settings[f"{ours}_token_id"] = fields[f"tokenizer.ggml.{name}_token_id"]
    settings["_model_name_or_path"] = fields["general.name"]  # as transformers' own loader does
    return LlamaConfig(
        **settings,
        rope_parameters=rope,
        tie_word_embeddings=True,
        architectures=["LlamaForCausalLM"],
        dtype="float32",
    )


def _weights(reader: GGUFReader, config: LlamaConfig) -> dict[str, NDArray[np.float32]]:
    names = {f"{name}.weight": f"model.{ours}.weight" for name, ours in MODEL.items()}
    for layer in range(config.num_hidden_layers):
        for name, ours in LAYER.items():
            names[f"blk.{layer}.{name}.weight"] = f"model.layers.{layer}.{ours}.weight"
    _require_equal("tensors", {tensor.name for tensor in reader.tensors}, set(names))
    heads = {"attn_q": config.num_attention_heads, "attn_k": config.num_key_value_heads}

    def weight(tensor: Any) -> NDArray[np.float32]:
        values = dequantize(tensor.data, tensor.tensor_type)
        kind = tensor.name.split(".")[-2]
        return _unpermute(values, heads[kind]) if kind in heads else values

    with ThreadPoolExecutor(THREADS) as pool:
        weights = pool.map(weight, reader.tensors)
        return {names[t.name]: w for t, w in zip(reader.tensors, weights, strict=True)}


def _unpermute(weight: NDArray[np.float32], heads: int) -> NDArray[np.float32]:
    """Undo llama.cpp's order of a head's rows, [heads * dim, hidden].

    llama.cpp rotates rows 2i and 2i + 1 of a head together, transformers rows i and i + dim / 2.
    """
    pairs = weight.reshape(heads, -1, 2, weight.shape[-1])
    return pairs.swapaxes(1, 2).reshape(weight.shape)


def _require_equal(what: str, found: set[str], expected: set[str]) -> None:
    if found != expected:
        unknown, missing = sorted(found - expected), sorted(expected - found)
        raise RuntimeError(f"GGUF: its {what}: unknown {unknown}, missing {missing}")
