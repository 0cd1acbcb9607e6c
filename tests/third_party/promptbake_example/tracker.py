"""A tracker: a table in SQLite."""

from __future__ import annotations

import sqlite3
from collections.abc import Mapping
from contextlib import closing
from dataclasses import asdict, fields
from pathlib import Path

from promptbake import StepMetrics

COLUMNS = [field.name for field in fields(StepMetrics)]


class SqliteTracker:
    """A row a step; each is committed before the next step begins."""

    def start(self, folder: Path, config: Mapping[str, object], step: int) -> None:
        """Keep the rows up to `step`, and none where the run begins."""
        self._file = folder / "example.sqlite"
        self._do(f"CREATE TABLE IF NOT EXISTS steps ({', '.join(COLUMNS)})", ())
        self._do("DELETE FROM steps WHERE step > ? OR ? = 0", (step, step))

    def log(self, metrics: StepMetrics) -> None:
        """Add a row; what was not measured is NULL."""
        marks = ", ".join("?" for _ in COLUMNS)
        self._do(f"INSERT INTO steps VALUES ({marks})", tuple(asdict(metrics).values()))

    def finish(self) -> None:
        """Every row is on disk already."""

    def _do(self, statement: str, values: tuple[object, ...]) -> None:
        with closing(sqlite3.connect(self._file)) as database, database:
            database.execute(statement, values)
