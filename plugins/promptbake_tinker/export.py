"""Bringing an adapter home, by tinker-cookbook's weights package."""

from __future__ import annotations

import os
import shutil
import tempfile
import warnings
from pathlib import Path

from tinker_cookbook import weights
from tinker_cookbook.exceptions import TinkerCookbookError

from promptbake.errors import BakeError
from promptbake.types import Checkpoint
from promptbake_tinker.base import Base
from promptbake_tinker.service import started


def download_adapter(base: Base, checkpoint: Checkpoint, folder: Path) -> None:
    """Download a checkpoint's weights and write them in PEFT's format into an empty folder.

    The service gives out training states, not the copies that it samples from; `details` of the
    checkpoint say where the state is.
    """
    state = checkpoint.details.get("state")
    if not state:
        raise BakeError(
            f"{checkpoint.uri}: Tinker does not give out what it samples from, and nothing here "
            "says where the training state is; export a run that promptbake baked"
        )
    url, key = base.service.url, base.service.key
    if key is not None:
        os.environ.setdefault("TINKER_API_KEY", key)  # the cookbook takes it from nowhere else
    with tempfile.TemporaryDirectory() as scratch, warnings.catch_warnings():
        warnings.simplefilter("ignore", FutureWarning)  # the cookbook calls what the SDK left
        raw, peft = Path(scratch) / "tinker", Path(scratch) / "peft"

        def fetch() -> None:
            weights.download(tinker_path=state, output_dir=str(raw), base_url=url)
            weights.build_lora_adapter(
                base_model=base.served, adapter_path=str(raw), output_path=str(peft)
            )

        try:
            started(fetch).result(timeout=base.service.deadline)
        except TimeoutError:
            raise BakeError(
                f"{state}: is not here after {base.service.deadline:g} seconds; try again, or give "
                "it longer by options.backends.tinker.deadline"
            ) from None
        except (TinkerCookbookError, OSError) as error:
            reason = " ".join(str(error).split())[:300]
            raise BakeError(f"{state}: could not be brought home: {reason}") from error
        for file in peft.iterdir():
            shutil.copy2(file, folder)
