"""JSON and TOML from outside, as values of a type that pydantic checks."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import date, time
from pathlib import Path
from typing import Annotated, Any, TypeVar

import pydantic
import tomli
from pydantic import BaseModel, ConfigDict, Field

from promptbake.documents.text import read_bytes, read_text, shown
from promptbake.errors import BakeError

T = TypeVar("T")
MAX_DEPTH = 50  # tables within tables, of a TOML file; pydantic's parser of JSON has its own limit
MAX_NUMBER = 10**38  # in size, of a setting
MAX_COUNT = 2**53  # above this a number is no count, and JSON's readers disagree on it
Count = Annotated[int, Field(ge=0, le=MAX_COUNT)]
Amount = Annotated[float, Field(ge=0, le=1e15)]  # of dollars or seconds
EXPECTED = {  # what pydantic says in Python's words
    "tuple_type": "expected a list, such as [1, 2]",
    "list_type": "expected a list, such as [1, 2]",
    "dict_type": "expected a JSON object",
    "model_type": "expected a JSON object",
    "model_attributes_type": "expected a JSON object",
    "dataclass_type": "expected a JSON object",
}


class Document(BaseModel):
    """A part of a file or of an answer: types are exact, and numbers are finite."""

    model_config = ConfigDict(frozen=True, strict=True, allow_inf_nan=False)


class OwnDocument(Document):
    """A part of a file that promptbake alone writes: it has no other fields."""

    model_config = ConfigDict(extra="forbid")


def parse_json(form: type[T], content: str | bytes, where: str) -> T:
    """JSON as a value of a type: a Document, a dataclass, a dict of something.

    Args:
        form: The type.
        content: The JSON text.
        where: What a message begins with, such as `FILE:LINE`.

    Raises:
        BakeError: It is not JSON, or not of this type.
    """
    try:
        return adapter(form).validate_json(content, strict=_strictness(form))
    except pydantic.ValidationError as error:
        raise BakeError(f"{where}: {explain(error)}") from None


def parse(form: type[T], value: object, where: str) -> T:
    """A value that was JSON as one of a type. Raises BakeError."""
    try:
        return adapter(form).validate_python(value, strict=_strictness(form))
    except pydantic.ValidationError as error:
        raise BakeError(f"{where}: {explain(error)}") from None


def read_json(form: type[T], path: Path) -> T:
    """A JSON file as a value of a type. Raises BakeError, also where it cannot be read."""
    return parse_json(form, read_bytes(path), str(path))


def read_lines(form: type[T], path: Path) -> Iterator[tuple[int, T]]:
    """The (line number, value) pairs of a user's JSONL file; blank lines are none.

    Raises BakeError naming the file and the line.
    """
    for number, text in enumerate(read_text(path).split("\n"), start=1):
        if text.strip():
            yield number, parse_json(form, text, f"{path}:{number}")


def read_own_lines(form: type[T], path: Path) -> list[T]:
    """The whole lines of a JSONL file of our own; none where there is no file.

    What follows the last line break is what a kill left.
    """
    content = read_bytes(path) if path.exists() else b""
    lines = content[: content.rfind(b"\n") + 1].split(b"\n")[:-1]
    return [parse_json(form, line, f"{path}:{n}") for n, line in enumerate(lines, start=1)]


def read_json_lines(path: Path) -> list[dict[str, Any]]:
    """The whole lines of a JSONL file of one's own; none where there is no file.

    Raises BakeError naming the file and the line for what is no JSON object.
    """
    return read_own_lines(dict[str, Any], path)


def parse_toml(text: str, where: str) -> dict[str, Any]:
    """A TOML table. Raises BakeError for what is none, or has a value that no setting takes."""
    try:
        values = tomli.loads(text)
    except (ValueError, RecursionError) as error:  # not TOML, or a number of too many digits
        raise BakeError(f"{where}: is not TOML: {shown(str(error), 200)}") from None
    check_values(values, where)
    return values


def check_values(value: object, where: str, path: tuple[str, ...] = ()) -> None:
    """Raise BakeError for settings that are nested too deeply, or have a value that none takes."""
    key = shown(".".join(path))
    if len(path) > MAX_DEPTH:
        raise BakeError(f"{where}: {key}: is nested more than {MAX_DEPTH} deep")
    if isinstance(value, dict):
        for name, inner in value.items():
            check_values(inner, where, (*path, str(name)))
    elif isinstance(value, list):
        for inner in value:
            check_values(inner, where, (*path, "[]"))
    elif isinstance(value, date | time):
        raise BakeError(f"{where}: {key}: is a date or a time, which no setting takes; quote it")
    elif isinstance(value, int) and abs(value) >= MAX_NUMBER:
        raise BakeError(f"{where}: {key}: expected a number below 1e38 in size")


_adapters: dict[Any, pydantic.TypeAdapter[Any]] = {}


def adapter(form: type[T]) -> pydantic.TypeAdapter[T]:
    """The adapter of a type, made once."""
    if form not in _adapters:
        has_own = _strictness(form) is None or hasattr(form, "__dataclass_fields__")
        config = None if has_own else Document.model_config
        _adapters[form] = pydantic.TypeAdapter(form, config=config)
    return _adapters[form]


def _strictness(form: Any) -> bool | None:
    """None for a model, which says itself whether its types are exact."""
    return None if isinstance(form, type) and issubclass(form, BaseModel) else True


def explain(error: pydantic.ValidationError) -> str:
    """What is wrong, in one line: the field, what was expected and what was found."""
    problems = error.errors(include_url=False)
    first = problems[0]
    key = shown(".".join(map(str, first["loc"])))
    if first["type"] == "json_invalid":
        half = " (half a character, a lone surrogate)" if "hex escape" in first["msg"] else ""
        return f"is not JSON: {first['msg'].removeprefix('Invalid JSON: ')}{half}"
    if first["type"] == "missing":
        text = f"has no {str(first['loc'][-1])!r}"
        text = text if len(first["loc"]) == 1 else f"{key.rpartition('.')[0]}: {text}"
    elif first["type"] == "extra_forbidden":
        text = f"{key}: is no field of it"
    else:
        text = f"{expected(first)}; found {shown(repr(first['input']))}"
        text = f"{key}: {text}" if key else text
    return text + (f" (and {len(problems) - 1} more)" if len(problems) > 1 else "")


def expected(problem: Any) -> str:
    """What one of pydantic's errors says was expected."""
    words: str = problem["msg"].lower()
    return EXPECTED.get(problem["type"], words.replace("input should be", "expected"))
