"""A third party's distribution as pip installs it: a module, its metadata, its entry point."""

from __future__ import annotations

from pathlib import Path


def write_record(folder: Path, module: str, plugin: str, version: str = "1.0") -> None:
    """The metadata of a distribution that offers the plugin of one module."""
    record = folder / f"{module}-{version}.dist-info"
    record.mkdir(parents=True)
    name = module.replace("_", "-")
    (record / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {name}\nVersion: {version}\n")
    (record / "entry_points.txt").write_text(f"[promptbake]\n{plugin} = {module}\n")


class Site:
    """A folder on the path in which distributions lie."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder

    def install(self, name: str, source: str, version: str = "1.2") -> None:
        """Install a distribution of one plugin."""
        module = f"{self._folder.name.replace('-', '_')}_{name}"  # no other test's has this name
        (self._folder / f"{module}.py").write_text(source)
        write_record(self._folder, module, name, version)
