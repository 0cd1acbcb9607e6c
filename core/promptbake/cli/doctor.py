"""`promptbake doctor`: what is installed and set, and what is missing per profile."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator, Mapping
from contextlib import suppress
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from promptbake.errors import BakeError
from promptbake.files import cache_folder
from promptbake.plugins.factories import PluginFactory
from promptbake.plugins.hookspecs import API_VERSION
from promptbake.plugins.registry import LoadFailure, Registry, load
from promptbake.runs.layers import profiles, resolve
from promptbake.runs.run_folder import versions

BROKEN_TORCH = "torch cannot be imported"


@dataclass(frozen=True)
class Cache:
    """The cache folder: everything in it can be recreated."""

    folder: str
    bytes: int  # that are in it
    free: int  # bytes that its disk has left
    writable: bool


@dataclass(frozen=True)
class Plugin:
    """An installed plugin, and what it offers: names by kind."""

    name: str
    version: str
    factories: Mapping[str, tuple[str, ...]]


@dataclass(frozen=True)
class Health:
    """The environment. Keys are reported as set or not, never by value."""

    api: int
    versions: Mapping[str, str | None]  # None is not installed
    devices: tuple[str, ...]
    cache: Cache
    keys: Mapping[str, bool]
    plugins: tuple[Plugin, ...]
    load_failures: tuple[LoadFailure, ...]
    conflicts: tuple[str, ...]
    profiles: Mapping[str, tuple[str, ...]]  # what is missing for each

    def as_json(self) -> dict[str, Any]:
        """What `promptbake doctor --json` prints."""
        return asdict(self)


def examine() -> Health:
    """Examine the environment; sends nothing, changes nothing."""
    registry = load()
    devices = tuple(_devices())
    broken = [line for line in devices if line.startswith(BROKEN_TORCH)]
    return Health(
        api=API_VERSION,
        versions=versions(missing=True),
        devices=devices,
        cache=_cache(cache_folder()),
        keys={key: bool(os.environ.get(key)) for key in _keys(registry)},
        plugins=tuple(_plugins(registry)),
        load_failures=registry.load_failures,
        conflicts=registry.conflict_lines(),
        profiles={name: (*broken, *_missing_for(name, registry)) for name in profiles(registry)},
    )


def _devices() -> Iterator[str]:
    memory = ""
    with suppress(ValueError, OSError, AttributeError):  # not on every system
        size = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30
        memory = f", {size:.0f} GiB"
    yield f"cpu: {os.cpu_count()} cores{memory}"
    try:
        import torch

        for number in range(torch.cuda.device_count()):
            device = torch.cuda.get_device_properties(number)
            yield f"cuda:{number}: {device.name}, {device.total_memory / 2**30:.0f} GiB"
        if torch.version.cuda is None and shutil.which("nvidia-smi"):
            yield "nvidia-smi is here, but torch is a build for the CPU (make setup TORCH=cuda)"
    except (Exception, SystemExit) as error:  # a broken installation may raise anything
        yield f"{BROKEN_TORCH}: {error}"


def _cache(folder: Path) -> Cache:
    there = next(path for path in (folder, *folder.parents) if path.exists())
    size = 0
    for file in folder.rglob("*"):
        with suppress(OSError):  # it may be deleted meanwhile
            size += file.stat().st_size if file.is_file() else 0
    writable = there.is_dir() and os.access(there, os.W_OK | os.X_OK)
    return Cache(str(folder), size, shutil.disk_usage(there).free, writable)


def _keys(registry: Registry) -> list[str]:
    return sorted({key for factory in registry.factories for key in factory.requirements.keys})


def _plugins(registry: Registry) -> Iterator[Plugin]:
    for name in sorted({factory.plugin for factory in registry.factories}):
        mine = [factory for factory in registry.factories if factory.plugin == name]
        kinds = dict.fromkeys(factory.kind for factory in mine)
        yield Plugin(
            name,
            mine[0].version,
            {kind: tuple(each.name for each in mine if each.kind == kind) for kind in kinds},
        )


def _missing_for(profile: str, registry: Registry) -> Iterator[str]:
    try:
        config = resolve(profile, registry=registry).config
    except BakeError as error:  # a plugin's profile may be wrong
        yield str(error)
        return
    missing: dict[str, None] = {}
    for choice in config.choices:
        try:
            factory = registry.choose(choice)
        except BakeError as error:
            missing[str(error)] = None
            continue
        missing |= dict.fromkeys(_missing_for_factory(factory, config.options_of(choice)))
    yield from missing


def _missing_for_factory(factory: PluginFactory, options: Mapping[str, object]) -> Iterator[str]:
    if factory.missing_modules:
        yield f"{', '.join(factory.missing_modules)}: pip install '{factory.requirements.install}'"
    for option in factory.options:
        if option.required and option.name not in options:
            yield f"--set options.{factory.kind}.{factory.name}.{option.name}=..."
    unless = factory.requirements.unless
    needless = unless and all(options.get(name) == value for name, value in unless.items())
    for key in factory.requirements.keys:
        if not needless and not os.environ.get(key):
            yield f"{key} is not set"
