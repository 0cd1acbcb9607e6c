"""Download an adapter, by tinker-cookbook's weights package."""

from __future__ import annotations

import os
import shutil
import tempfile
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import safetensors.torch
import tinker
from tinker_cookbook import weights
from tinker_cookbook.exceptions import TinkerCookbookError

from promptbake import BakeError, Checkpoint, run_in_thread
from promptbake_tinker.base import Base
from promptbake_tinker.service import reason_of

WEIGHTS = "adapter_model.safetensors"


def download_adapter(
    base: Base, checkpoint: Checkpoint, folder: Path, strength: float = 1.0
) -> None:
    """Download a checkpoint's weights and write them in PEFT's format into an empty folder.

    The service exports training states, not the copies that it samples from; the checkpoint's
    `details` have the state's address. The change of the weights is multiplied by `strength`.

    Raises:
        BakeError: It cannot be downloaded, or what peft would load is not what was trained.
    """
    state = checkpoint.details.get("state")
    if not state:
        raise BakeError(
            f"{checkpoint.uri}: Tinker exports training states only, and this adapter's "
            "is not on record; export a run that promptbake baked"
        )
    url, key = base.service.url, base.service.key
    with tempfile.TemporaryDirectory() as scratch, _key_in_environment(key), _quiet():
        raw, peft = Path(scratch) / "tinker", Path(scratch) / "peft"

        def fetch() -> None:
            weights.download(tinker_path=state, output_dir=str(raw), base_url=url)
            _check_exportable(base, raw / WEIGHTS, state)
            weights.build_lora_adapter(
                base_model=base.served, adapter_path=str(raw), output_path=str(peft)
            )

        try:
            run_in_thread(fetch).result(timeout=base.service.deadline)
        except TimeoutError:
            raise BakeError(
                f"{state}: not downloaded after {base.service.deadline:g} seconds; try again, or "
                f"raise {base.settings.key}.deadline"
            ) from None
        except (TinkerCookbookError, tinker.TinkerError, OSError) as error:
            raise BakeError(f"{state}: could not download it: {reason_of(error)}") from error
        if strength != 1:
            _scale(peft / WEIGHTS, strength)
        for file in peft.iterdir():
            shutil.copy2(file, folder)


def _check_exportable(base: Base, file: Path, state: str) -> None:
    """Raise BakeError for a LoRA on the unembedding of a model with tied embeddings.

    tinker-cookbook names it `embed_tokens.lora_A`, which peft does not load: the adapter in the
    folder would not be the one that was trained and measured.
    """
    with safetensors.safe_open(file, "pt") as adapter:
        unembeds = any("unembed" in name for name in adapter.keys())  # noqa: SIM118
    if unembeds and base.tied_embeddings:
        raise BakeError(
            f"{state}: has a LoRA on the unembedding, which {base.name} shares with its embedding; "
            "in PEFT's format it would not be the adapter that was trained. Use it on Tinker, or "
            f"set {base.settings.key}.train_unembed=false, bake again and export that"
        )


def _scale(file: Path, strength: float) -> None:
    weights = safetensors.torch.load(file.read_bytes())
    scaled = {n: w * strength if ".lora_B." in n else w for n, w in weights.items()}
    file.write_bytes(safetensors.torch.save(scaled, {"format": "pt"}))


@contextmanager
def _key_in_environment(key: str | None) -> Iterator[None]:
    """Set TINKER_API_KEY, the only place that the cookbook takes the key from."""
    before = os.environ.get("TINKER_API_KEY")
    if key is not None:
        os.environ["TINKER_API_KEY"] = key
    try:
        yield
    finally:
        if key is not None:
            del os.environ["TINKER_API_KEY"]
        if before is not None:
            os.environ["TINKER_API_KEY"] = before


@contextmanager
def _quiet() -> Iterator[None]:
    """Ignore the FutureWarnings of what the cookbook still calls in the SDK."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", FutureWarning)
        yield
