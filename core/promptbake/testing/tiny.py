"""A tiny real language model: random weights from a seed, a byte-level tokenizer, a template.

It says nothing sensible, but its answers depend on its system prompt, so baking it is real.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

START, END = "<|im_start|>", "<|im_end|>"
TEMPLATE = (
    "{% if messages[0]['role'] != 'system' %}" + START + "system\nBe kind." + END + "\n{% endif %}"
    "{% for message in messages %}" + START + "{{ message['role'] }}\n{{ message['content'] }}"
    "" + END + "\n{% endfor %}"
    "{% if add_generation_prompt %}" + START + "assistant\n{% endif %}"
)
HIDDEN = 64
LAYERS = 3
ALLOWED_TOKENS = [10, *range(32, 127)]  # newline and printable ASCII: all that the model says
SILENCE = -8.0  # added to the logit of every other token, but for
EOS_BIAS = -2.5  # the one that ends a turn: about one in five hundred does
LOGIT_SCALE = 3.0  # of the head: with it, a system prompt moves an answer by some 0.2 nats a token


def tiny_tokenizer() -> PreTrainedTokenizerFast:
    """One token a byte, and two that frame a turn. Its template injects a default system turn."""
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    tokenizer = Tokenizer(models.BPE({char: i for i, char in enumerate(alphabet)}, []))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    tokenizer.decoder = decoders.ByteLevel()
    wrapped = PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, eos_token=END, pad_token=END, additional_special_tokens=[START]
    )
    wrapped.chat_template = TEMPLATE
    return wrapped


def tiny_model(seed: int = 0, context_tokens: int = 2048) -> Any:
    """A Llama of 3 layers and 64 channels, the same weights for the same seed.

    Channel 0 is 1 in every embedding, is written by no layer, and carries the bias by which the
    model keeps to speakable tokens and now and then ends its turn.
    """
    tokenizer = tiny_tokenizer()
    config = LlamaConfig(
        vocab_size=len(tokenizer),
        hidden_size=HIDDEN,
        intermediate_size=2 * HIDDEN,
        num_hidden_layers=LAYERS,
        num_attention_heads=4,
        num_key_value_heads=2,
        max_position_embeddings=context_tokens,
        eos_token_id=tokenizer.eos_token_id,
        bos_token_id=None,
        pad_token_id=tokenizer.pad_token_id,
        tie_word_embeddings=False,
    )
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model = LlamaForCausalLM(config)
        with torch.no_grad():
            for parameter in model.parameters():
                if parameter.dim() == 2:
                    parameter.normal_(std=parameter.shape[1] ** -0.5)
            _bias_towards_speech(model, tokenizer)
    return model.eval()


def save_tiny(folder: Path, seed: int = 0) -> Path:
    """The tiny model as a Hugging Face folder."""
    tiny_model(seed).save_pretrained(folder)
    tiny_tokenizer().save_pretrained(folder)
    return folder


def _bias_towards_speech(model: Any, tokenizer: PreTrainedTokenizerFast) -> None:
    model.model.embed_tokens.weight[:, 0] = 1.0
    for layer in model.model.layers:
        layer.self_attn.o_proj.weight[0] = 0.0
        layer.mlp.down_proj.weight[0] = 0.0
    speakable = tokenizer.convert_tokens_to_ids(
        [tokenizer.tokenize(chr(byte))[0] for byte in ALLOWED_TOKENS]
    )
    head = model.lm_head.weight
    head *= LOGIT_SCALE
    head[:, 0] = SILENCE
    head[tokenizer.eos_token_id, 0] = EOS_BIAS
    head[speakable, 0] = 0.0
