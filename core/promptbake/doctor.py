"""`promptbake doctor`: what is installed, set and at hand, and what each profile lacks."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator, Mapping
from contextlib import suppress
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from promptbake.config import Config, profiles, resolve
from promptbake.errors import BakeError
from promptbake.files import cache
from promptbake.hookspecs import API_VERSION
from promptbake.offers import Offer
from promptbake.plugins import Registry, SetAside, load
from promptbake.runs import versions

BROKEN_TORCH = "torch cannot be imported"


@dataclass(frozen=True)
class Cache:
    """Where what can be made again is kept."""

    folder: str
    bytes: int  # that are in it
    free: int  # bytes that its disk has left
    writable: bool


@dataclass(frozen=True)
class Plugin:
    """An installed plugin, and what it offers: names by kind."""

    name: str
    version: str
    offers: Mapping[str, tuple[str, ...]]


@dataclass(frozen=True)
class Health:
    """The environment. Of keys it holds whether they are set, and never what they are."""

    api: int
    versions: Mapping[str, str | None]  # None is not installed
    devices: tuple[str, ...]
    cache: Cache
    keys: Mapping[str, bool]
    plugins: tuple[Plugin, ...]
    set_aside: tuple[SetAside, ...]
    clashes: tuple[str, ...]
    profiles: Mapping[str, tuple[str, ...]]  # what each lacks

    def as_json(self) -> dict[str, Any]:
        """What `promptbake doctor --json` prints."""
        return asdict(self)


def examine() -> Health:
    """Look at everything; sends nothing, changes nothing."""
    registry = load()
    devices = tuple(_devices())
    broken = [line for line in devices if line.startswith(BROKEN_TORCH)]
    return Health(
        api=API_VERSION,
        versions=versions(missing=True),
        devices=devices,
        cache=_cache(cache()),
        keys={key: bool(os.environ.get(key)) for key in _keys(registry)},
        plugins=tuple(_plugins(registry)),
        set_aside=registry.set_aside,
        clashes=registry.clash_lines(),
        profiles={name: (*broken, *_profile_lacks(name, registry)) for name in profiles(registry)},
    )


def _devices() -> Iterator[str]:
    memory = ""
    with suppress(ValueError, OSError, AttributeError):  # not every system tells
        size = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30
        memory = f", {size:.0f} GiB"
    yield f"cpu: {os.cpu_count()} cores{memory}"
    try:
        import torch

        for number in range(torch.cuda.device_count()):
            found = torch.cuda.get_device_properties(number)
            yield f"cuda:{number}: {found.name}, {found.total_memory / 2**30:.0f} GiB"
    except (Exception, SystemExit) as error:  # a broken installation may raise anything
        yield f"{BROKEN_TORCH}: {error}"


def _cache(folder: Path) -> Cache:
    there = next(path for path in (folder, *folder.parents) if path.exists())
    size = 0
    for file in folder.rglob("*"):
        with suppress(OSError):  # it may go while we look
            size += file.stat().st_size if file.is_file() else 0
    writable = there.is_dir() and os.access(there, os.W_OK | os.X_OK)
    return Cache(str(folder), size, shutil.disk_usage(there).free, writable)


def _keys(registry: Registry) -> list[str]:
    return sorted({key for offer in registry.offers for key in offer.needs.keys})


def _plugins(registry: Registry) -> Iterator[Plugin]:
    for name in sorted({offer.plugin for offer in registry.offers}):
        mine = [offer for offer in registry.offers if offer.plugin == name]
        kinds = dict.fromkeys(offer.kind for offer in mine)
        yield Plugin(
            name,
            mine[0].version,
            {kind: tuple(each.name for each in mine if each.kind == kind) for kind in kinds},
        )


def _profile_lacks(name: str, registry: Registry) -> Iterator[str]:
    try:
        config = resolve(name, registry=registry).config
    except BakeError as error:  # a plugin's profile may be anything
        yield str(error)
        return
    yield from _lacks(config, registry)


def _lacks(config: Config, registry: Registry) -> Iterator[str]:
    found: dict[str, None] = {}
    for kind, name, key in config.chosen():
        try:
            offer = registry.choose(kind, name, key)
        except BakeError as error:
            found[str(error)] = None
            continue
        found |= dict.fromkeys(_offer_lacks(offer, config.options_of(kind, name)))
    yield from found


def _offer_lacks(offer: Offer, options: Mapping[str, object]) -> Iterator[str]:
    if offer.missing_modules:
        yield f"{', '.join(offer.missing_modules)}: pip install '{offer.needs.install}'"
    for option in offer.options:
        if option.required and option.name not in options:
            yield f"--set options.{offer.kind}.{offer.name}.{option.name}=..."
    unless = offer.needs.unless
    needless = unless and all(options.get(name) == value for name, value in unless.items())
    for key in offer.needs.keys:
        if not needless and not os.environ.get(key):
            yield f"{key} is not set"
