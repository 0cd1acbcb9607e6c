"""The digest of a model: its weights, its settings, its tokenizer and its chat template."""

from __future__ import annotations

import hashlib
import re
import time
from pathlib import Path

from promptbake import cache_folder, digest_file, write_atomic

# What a model folder holds beside texts for people.
ENDINGS = {".safetensors", ".bin", ".pt", ".json", ".jinja", ".model", ".txt", ".gguf"}
JUST_NOW = 2.0  # seconds: a file that changed so recently may change again within one time stamp


def model_digest(name: str, folder: Path) -> str | None:
    """SHA-256 of what a folder's model is made of; of a hub id, its name and its revision.

    None for a hub id that is not on this machine.
    """
    digest = hashlib.sha256()
    if folder.is_dir():
        for path in sorted(folder.rglob("*")):
            if path.suffix in ENDINGS and path.is_file():
                digest.update(f"{path.relative_to(folder)}\0{_file_digest(path)}\0".encode())
        return digest.hexdigest()
    revision = _revision(name)
    return hub_digest(name, revision) if revision else None


def hub_digest(name: str, revision: str) -> str:
    """The digest of a model on the hub."""
    return hashlib.sha256(f"{name}@{revision}".encode()).hexdigest()


def _revision(name: str) -> str | None:
    """The commit of a hub id in the hub's cache."""
    from huggingface_hub import try_to_load_from_cache

    try:
        cached = try_to_load_from_cache(name, "config.json")
    except ValueError:  # it is no hub id
        return None
    return Path(cached).parent.name if isinstance(cached, str) else None


def _file_digest(path: Path) -> str:
    """SHA-256 of the whole file, remembered in the cache for as long as the file is the same."""
    path = path.resolve()
    status = path.stat()
    same = (path, status.st_ino, status.st_size, status.st_mtime_ns, status.st_ctime_ns)
    key = hashlib.sha256(repr(same).encode()).hexdigest()
    remembered = cache_folder() / "digests" / key
    known = remembered.read_text("ascii", "replace") if remembered.is_file() else ""
    if re.fullmatch("[0-9a-f]{64}", known):
        return known
    digest = digest_file(path)
    if time.time() - max(status.st_mtime, status.st_ctime) > JUST_NOW:
        write_atomic(remembered, digest)
    return digest
