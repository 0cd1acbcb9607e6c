"""Files of queries: text, JSONL, JSON, CSV, TSV, Parquet, and datasets of the Hugging Face hub."""

from __future__ import annotations

import csv
from collections.abc import Iterable, Iterator, Mapping, Sequence
from importlib import import_module
from io import StringIO
from pathlib import Path
from typing import Any

from promptbake.dataset.conversations import check_messages
from promptbake.documents.text import read_bytes, read_text, shown
from promptbake.documents.typed import Document, parse, read_json, read_lines
from promptbake.errors import BakeError, nearest
from promptbake.types import Message, Query

HUB = "hf://"
TEXT = ("", ".txt", ".text", ".md")
SEPARATORS = {".csv": ",", ".tsv": "\t"}
ENDINGS = (".jsonl", ".json", *SEPARATORS, ".parquet", *TEXT[1:])


def read_queries(source: str, column: str | None) -> Iterator[Query]:
    """The queries of a file, which is read as what its ending says, or of `hf://NAME#COLUMN`.

    Raises BakeError for a file that cannot be read, and for a line that holds no query.
    """
    path = Path(source)
    ending = path.suffix.lower()
    if source.startswith(HUB):
        return _dataset_rows(source, column)
    if ending == ".jsonl":
        lines = read_lines(_Line, path)
        return (line.query(f"{path}:{number}", f"line-{number:05}") for number, line in lines)
    if ending == ".json":
        return _items(path)
    if ending in SEPARATORS:
        return _rows(path, column, SEPARATORS[ending])
    if ending == ".parquet":
        return _parquet_rows(path, column)
    if ending in TEXT:
        lines_of_text = enumerate(read_text(path).split("\n"), start=1)
        return (ask(f"line-{number:05}", text) for number, text in lines_of_text if text.strip())
    raise BakeError(f"{shown(source)}: expected a file that ends with {', '.join(ENDINGS)}")


def ask(id: str, text: str, category: str = "") -> Query:  # noqa: A002
    """A query of one turn."""
    return Query(id, (Message("user", text.strip()),), category)


class _Line(Document):
    """A query with a text, or with turns."""

    id: str | int | None = None
    text: str | None = None
    messages: list[Any] | None = None
    category: str = ""

    def query(self, where: str, number: str) -> Query:
        messages = self.messages
        if messages is None and self.text is not None:
            messages = [{"role": "user", "content": self.text}]
        given = number if self.id is None else str(self.id)
        return Query(given, _user_turns(messages, where), self.category)


def _user_turns(messages: object, where: str) -> tuple[Message, ...]:
    turns = check_messages({"messages": messages}, where)
    if turns[-1].role != "user":
        raise BakeError(
            f"{where}: a query ends with the user's turn; for conversations that are answered "
            "already, use data.provider=files"
        )
    return turns


def _items(path: Path) -> Iterator[Query]:
    for number, item in enumerate(read_json(list[Any], path), start=1):
        where = f"{path}: item {number}"
        line = _Line(text=item) if isinstance(item, str) else parse(_Line, item, where)
        yield line.query(where, f"item-{number:05}")


def _rows(path: Path, column: str | None, separator: str) -> Iterator[Query]:
    """The rows of a CSV file. One that is damaged is refused: a quote that is not closed would
    swallow the rows behind it.
    """
    rows = csv.reader(StringIO(read_text(path), newline=""), delimiter=separator, strict=True)
    try:
        names = next(rows, [])
        index = names.index(_column(names, column, f"{path}: CSV"))
        for number, row in enumerate((row for row in rows if row), start=1):
            if len(row) != len(names):
                raise BakeError(
                    f"{path}:{rows.line_num}: has {len(row)} fields, and there are {len(names)} "
                    "columns; text with a separator in it stands in double quotes"
                )
            if row[index].strip():
                yield ask(f"row-{number:05}", row[index])
    except csv.Error as error:
        raise BakeError(f"{path}:{rows.line_num}: is not CSV: {error}") from None


def _column(names: Sequence[str], wanted: str | None, source: str) -> str:
    """The column that is wanted, or the only one."""
    if len(set(names)) < len(names):
        twice = next(name for name in names if names.count(name) > 1)
        raise BakeError(f"{source}: two columns are called {shown(repr(twice))}; rename one")
    if wanted is None and len(names) == 1:
        return names[0]
    if wanted is None or wanted not in names:
        listed = shown(", ".join(names), 200) or "none"
        raise BakeError(
            f"{source}: set data.column to one of: {listed}; found {wanted!r}"
            + (nearest(wanted, names) if wanted else "")
        )
    return wanted


def _parquet_rows(path: Path, column: str | None) -> Iterator[Query]:
    arrow = _module("pyarrow", str(path), "parquet")
    parquet = import_module("pyarrow.parquet")
    content = arrow.BufferReader(read_bytes(path))
    try:
        file = parquet.ParquetFile(content)
        name = _column(file.schema_arrow.names, column, str(path))
        values = file.read(columns=[name]).column(0).to_pylist()
    except (arrow.ArrowException, OSError) as error:
        raise BakeError(f"{path}: is not Parquet: {shown(str(error), 200)}") from None
    return _values(values, str(path))


def _dataset_rows(source: str, column: str | None) -> Iterator[Query]:
    """The rows of `hf://ORG/NAME#COLUMN`, or `hf://ORG/NAME:SPLIT#COLUMN`; the split is train."""
    library = _module("datasets", source, "datasets")
    address, _, own_column = source.removeprefix(HUB).partition("#")
    name, _, split = address.partition(":")
    if not name:
        raise BakeError(f"{shown(source)}: expected hf://ORG/NAME#COLUMN")
    try:
        rows = library.load_dataset(name, split=split or "train")
    except Exception as error:  # a connection, a name, a split, a file in it
        raise BakeError(f"{shown(source)}: cannot be read: {shown(str(error), 200)}") from None
    chosen = _column(rows.column_names, own_column or column, shown(source))
    return _values(rows.select_columns([chosen]), shown(source), chosen)


def _values(rows: Iterable[Any], source: str, column: str | None = None) -> Iterator[Query]:
    """A query of each value: a text, or turns. Empty ones are none, as empty lines of a text."""
    for number, row in enumerate(rows, start=1):
        value = row[column] if column is not None and isinstance(row, Mapping) else row
        if value is None or value == "" or (isinstance(value, str) and not value.strip()):
            continue
        where = f"{source}: row {number}"
        messages = [{"role": "user", "content": value}] if isinstance(value, str) else value
        yield Query(f"row-{number:05}", _user_turns(messages, where))


def _module(name: str, source: str, extra: str) -> Any:
    try:
        return import_module(name)
    except ModuleNotFoundError:
        raise BakeError(
            f"{shown(source)}: needs the module {name}: pip install 'promptbake[{extra}]'"
        ) from None
