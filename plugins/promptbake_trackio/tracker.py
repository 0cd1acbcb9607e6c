"""Writes each step to trackio's database before training goes on.

`trackio.init` and `trackio.log` are not for this: they print to stdout, they ask Hugging Face who
the user is, and a thread writes half a second later and only warns where it cannot. So this calls
what that thread calls.
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
    """One run, in a database that is the run folder's own."""

    def __init__(self, project: str, name: str | None) -> None:
        self._project, self._name = project, name

    def start(self, folder: Path, config: Mapping[str, object], step: int) -> None:
        """Open the database; steps later than `step` go, and all where the run begins.

        Raises BakeError where trackio does not take the project's name, or cannot write.
        """
        folder = folder.resolve()
        self._run = self._name or folder.name
        self._config: Mapping[str, object] | None = config
        self._storage = _storage(folder / "trackio")
        with _mendable():
            self._storage.validate_project_name(self._project)
            if not step:
                shutil.rmtree(folder / "trackio", ignore_errors=True)
            database = self._storage.init_db(self._project)
            # trackio itself deletes a run only as a whole.
            with closing(sqlite3.connect(database)) as connection, connection:
                connection.execute("DELETE FROM metrics WHERE step > ?", (step,))

    def log(self, metrics: StepMetrics) -> None:
        """Write one step; what was not measured is left out. The step is the row's."""
        fields = {key: value for key, value in asdict(metrics).items() if value is not None}
        step = fields.pop("step")
        with _mendable():
            self._storage.bulk_log(
                project=self._project,
                run=self._run,
                metrics_list=[fields],
                steps=[step],
                config=self._config,
            )
        self._config = None  # once is enough

    def finish(self) -> None:
        """Nothing is left to do: each step is written."""


def _storage(home: Path) -> Any:
    """A copy of the storage module for this folder, which that module keeps in a global."""
    spec = find_spec("trackio.sqlite_storage")
    assert spec is not None
    assert spec.loader is not None
    module: Any = module_from_spec(spec)
    spec.loader.exec_module(module)
    module.TRACKIO_DIR = home
    # Else it would first fetch what is in the bucket that TRACKIO_BUCKET_ID may name.
    module.SQLiteStorage._dataset_import_attempted = True
    return module.SQLiteStorage


@contextmanager
def _mendable() -> Iterator[None]:
    try:
        yield
    except (ValueError, OSError, sqlite3.Error) as error:
        raise BakeError(f"tracker trackio: {error}") from None
