"""A GGUF file of a tiny Llama becomes the model that it was made of."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from gguf import MODEL_ARCH, GGMLQuantizationType, GGUFWriter, get_tensor_name_map
from gguf.quants import dequantize, quantize
from transformers import AutoModelForCausalLM, LlamaConfig, LlamaForCausalLM

from promptbake_torch.gguf_weights import Reader, save_llama

Array = np.ndarray
CONFIG = LlamaConfig(
    hidden_size=64,
    intermediate_size=96,
    num_hidden_layers=2,
    num_attention_heads=4,
    num_key_value_heads=2,
    vocab_size=50,
    max_position_embeddings=128,
    rms_norm_eps=1e-3,
    rope_parameters={"rope_type": "default", "rope_theta": 500.0},
    tie_word_embeddings=True,
    bos_token_id=3,
    eos_token_id=4,
    pad_token_id=5,
)
KINDS = {"embed_tokens": GGMLQuantizationType.Q8_0, "proj": GGMLQuantizationType.Q4_1}


def kind_of(name: str) -> GGMLQuantizationType:
    return next((kind for part, kind in KINDS.items() if part in name), GGMLQuantizationType.F32)


def permuted(weight: Array, heads: int) -> Array:
    """The order of rows that llama.cpp's converter gives a query's or a key's projection."""
    halves = weight.reshape(heads, 2, -1, weight.shape[-1])
    return halves.swapaxes(1, 2).reshape(weight.shape)


def tiny_weights() -> dict[str, Array]:
    torch.manual_seed(0)
    state = LlamaForCausalLM(CONFIG).model.state_dict()
    return {name: torch.randn_like(weight).numpy() for name, weight in state.items()}


def write_gguf(
    file: Path, weights: dict[str, Array], architecture: str = "llama", scaling: bool = False
) -> Reader:
    """Write the file as llama.cpp's converter does, and open it."""
    writer = GGUFWriter(file, architecture)
    writer.add_name("Tiny")
    writer.add_context_length(CONFIG.max_position_embeddings)
    writer.add_embedding_length(CONFIG.hidden_size)
    writer.add_feed_forward_length(CONFIG.intermediate_size)
    writer.add_block_count(CONFIG.num_hidden_layers)
    writer.add_head_count(CONFIG.num_attention_heads)
    writer.add_head_count_kv(CONFIG.num_key_value_heads)
    writer.add_layer_norm_rms_eps(CONFIG.rms_norm_eps)
    writer.add_rope_dimension_count(CONFIG.head_dim)
    writer.add_rope_freq_base(CONFIG.rope_parameters["rope_theta"])
    if scaling:
        writer.add_rope_scaling_factor(2.0)
    writer.add_vocab_size(CONFIG.vocab_size)
    writer.add_bos_token_id(CONFIG.bos_token_id)
    writer.add_eos_token_id(CONFIG.eos_token_id)
    writer.add_pad_token_id(CONFIG.pad_token_id)
    writer.add_unk_token_id(0)
    names = get_tensor_name_map(MODEL_ARCH.LLAMA, CONFIG.num_hidden_layers)
    heads = {"q_proj": CONFIG.num_attention_heads, "k_proj": CONFIG.num_key_value_heads}
    for name, weight in weights.items():
        projection = name.split(".")[-2]
        rows = permuted(weight, heads[projection]) if projection in heads else weight
        new = names.get_name(f"model.{name}", try_suffixes=(".weight",)) or name
        writer.add_tensor(new, quantize(rows, kind_of(name)), raw_dtype=kind_of(name))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return Reader(file)


def test_the_model_is_the_one_with_the_dequantized_weights(tmp_path: Path) -> None:
    weights = tiny_weights()
    save_llama(write_gguf(tmp_path / "tiny.gguf", weights), tmp_path)
    converted = AutoModelForCausalLM.from_pretrained(tmp_path)
    expected = LlamaForCausalLM(CONFIG).eval()
    rounded = {n: dequantize(quantize(w, kind_of(n)), kind_of(n)) for n, w in weights.items()}
    expected.model.load_state_dict({n: torch.from_numpy(w.copy()) for n, w in rounded.items()})
    for name, weight in expected.model.state_dict().items():
        assert torch.equal(converted.model.state_dict()[name], weight), name
    tokens = torch.arange(40).reshape(2, 20)
    with torch.no_grad():
        torch.testing.assert_close(converted(tokens).logits, expected(tokens).logits)


def test_the_settings_are_the_files(tmp_path: Path) -> None:
    save_llama(write_gguf(tmp_path / "tiny.gguf", tiny_weights()), tmp_path)
    converted = LlamaConfig.from_pretrained(tmp_path)
    own = {"architectures", "dtype", "rms_norm_eps", "unk_token_id", "_name_or_path"}
    own |= {"_model_name_or_path", "transformers_version"}
    expected = {key: value for key, value in CONFIG.to_dict().items() if key not in own}
    assert {key: converted.to_dict()[key] for key in expected} == expected
    assert converted.rms_norm_eps == pytest.approx(CONFIG.rms_norm_eps)
    assert converted.dtype == torch.float32


def test_an_unknown_tensor_is_refused(tmp_path: Path) -> None:
    weights = tiny_weights() | {"layers.0.self_attn.q_norm.weight": np.ones(16, np.float32)}
    reader = write_gguf(tmp_path / "tiny.gguf", weights)
    with pytest.raises(RuntimeError, match=r"its tensors: unknown \['.*q_norm.weight'\], missing"):
        save_llama(reader, tmp_path)


def test_a_missing_tensor_is_refused(tmp_path: Path) -> None:
    weights = tiny_weights()
    del weights["layers.1.self_attn.v_proj.weight"]
    reader = write_gguf(tmp_path / "tiny.gguf", weights)
    with pytest.raises(RuntimeError, match=r"unknown \[\], missing \['blk.1.attn_v.weight'\]"):
        save_llama(reader, tmp_path)


def test_another_architecture_is_refused(tmp_path: Path) -> None:
    reader = write_gguf(tmp_path / "tiny.gguf", tiny_weights(), architecture="qwen2")
    with pytest.raises(RuntimeError, match=r"its architecture: unknown \['qwen2'\]"):
        save_llama(reader, tmp_path)


def test_an_unknown_setting_is_refused(tmp_path: Path) -> None:
    reader = write_gguf(tmp_path / "tiny.gguf", tiny_weights(), scaling=True)
    with pytest.raises(RuntimeError, match=r"its settings: unknown \['llama.rope.scaling.factor'"):
        save_llama(reader, tmp_path)
