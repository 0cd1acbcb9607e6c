"""Writes each step to trackio's database before training continues.

`trackio.init` and `trackio.log` cannot be used: they print to stdout, request the user's name from
Hugging Face, and write half a second later, in a thread that only warns where it fails. This module
calls the storage layer that the thread calls.
"""

from __future__ import annotations

import shutil
import sqlite3
from collections.abc import Iterator, Mapping
from contextlib import closing, contextmanager
from dataclasses import asdict
from importlib.util import find_spec, module_from_spec
from pathlib import Path
from typing import Any

from promptbake import BakeError, StepMetrics


class TrackioTracker:
    """One run, in a database in its folder."""

    def __init__(self, project: str, name: str | None) -> None:
        self._project, self._name = project, name

    def start(self, folder: Path, config: Mapping[str, object], step: int) -> None:
        """Open the database and delete the steps after `step`, or all where the run begins.

        Raises:
            BakeError: trackio rejects the project's name, or cannot write.
        """
        folder = folder.resolve()
        self._run = self._name or folder.name
        self._config: Mapping[str, object] | None = config
        self._storage = open_storage(folder / "trackio")
        with _as_bake_error():
            self._storage.validate_project_name(self._project)
            if not step:
                shutil.rmtree(folder / "trackio", ignore_errors=True)
            database = self._storage.init_db(self._project)
            # trackio itself can only delete whole runs.
            with closing(sqlite3.connect(database)) as connection, connection:
                connection.execute("DELETE FROM metrics WHERE step > ?", (step,))

    def log(self, metrics: StepMetrics) -> None:
        """Write one step, without what was not measured."""
        fields = {key: value for key, value in asdict(metrics).items() if value is not None}
        step = fields.pop("step")
        with _as_bake_error():
            self._storage.bulk_log(
                project=self._project,
                run=self._run,
                metrics_list=[fields],
                steps=[step],
                config=self._config,
            )
        self._config = None  # written once

    def finish(self) -> None:
        """Nothing to do: every step is written."""


def open_storage(home: Path) -> Any:
    """trackio's storage for a folder: a copy of its module, which keeps the folder in a global."""
    spec = find_spec("trackio.sqlite_storage")
    assert spec is not None
    assert spec.loader is not None
    module: Any = module_from_spec(spec)
    spec.loader.exec_module(module)
    module.TRACKIO_DIR = home
    # Otherwise it first downloads the bucket that TRACKIO_BUCKET_ID may name.
    module.SQLiteStorage._dataset_import_attempted = True
    return module.SQLiteStorage


@contextmanager
def _as_bake_error() -> Iterator[None]:
    try:
        yield
    except (ValueError, OSError, sqlite3.Error) as error:
        raise BakeError(f"tracker trackio: {error}") from None
