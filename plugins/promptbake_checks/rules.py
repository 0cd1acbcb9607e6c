"""What a program can see in an answer: each rule is a function from a text to whether it holds."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from importlib.metadata import entry_points
from pathlib import Path
from typing import Any

from promptbake import BakeError, nearest

Rule = Callable[[str], bool]
ENTRY_POINTS = "promptbake.checks"  # the group of packaging's entry points


def matches(pattern: str, key: str) -> Rule:
    """Has a match of a Python regular expression, anywhere."""
    try:
        compiled = re.compile(pattern)
    except re.error as error:
        raise BakeError(f"{key}: {pattern!r} is no regular expression: {error}") from None
    return lambda answer: compiled.search(answer) is not None


def contains(words: str, key: str) -> Rule:
    """Has this text in it, whatever the case of its letters."""
    return lambda answer: words.casefold() in answer.casefold()


def starts_with(start: str, key: str) -> Rule:
    """Begins with this text, white space aside."""
    return lambda answer: answer.lstrip().startswith(start)


def ends_with(end: str, key: str) -> Rule:
    """Ends with this text, white space aside."""
    return lambda answer: answer.rstrip().endswith(end)


def has_at_least(words: int, key: str) -> Rule:
    """Has so many words or more."""
    return lambda answer: len(answer.split()) >= words


def has_at_most(words: int, key: str) -> Rule:
    """Has so many words or fewer."""
    return lambda answer: len(answer.split()) <= words


def is_in_case(case: str, key: str) -> Rule:
    """Has letters, and all of them are capitals (`upper`), or none is (`lower`)."""
    test = {"upper": str.isupper, "lower": str.islower}.get(case)
    if test is None:
        raise BakeError(f"{key}: {case!r} is no letter case; expected 'upper' or 'lower'")
    return test


def has_no(letters: str, key: str) -> Rule:
    """Has none of these characters, neither as capitals nor as small letters."""
    forbidden = set(letters.casefold())
    return lambda answer: not forbidden & set(answer.casefold())


def is_in_language(code: str, key: str) -> Rule:
    """Is written in a language, by its ISO 639-1 code, as py3langid tells them apart."""
    langid = _needed("py3langid", key)
    known = [name for name, _ in langid.rank(code)]
    if code not in known:
        raise BakeError(
            f"{key}: {code!r} is no language that py3langid knows; expected one of: "
            + ", ".join(sorted(known))
        )
    return lambda answer: bool(answer.strip()) and langid.classify(answer)[0] == code


def fits_schema(file: str, key: str) -> Rule:
    """Is JSON, and valid by the JSON Schema in a file."""
    jsonschema = _needed("jsonschema", key)
    try:
        schema = json.loads(Path(file).read_text("utf-8"))
        validator = jsonschema.validators.validator_for(schema)
        validator.check_schema(schema)
    except (OSError, ValueError, jsonschema.exceptions.SchemaError) as error:
        reason = str(error).splitlines()[0]
        raise BakeError(f"{key}: {file!r} is no file with a JSON Schema: {reason}") from None

    def fits(answer: str) -> bool:
        try:
            return bool(validator(schema).is_valid(json.loads(answer)))
        except ValueError:
            return False

    return fits


def passes(name: str, key: str) -> Rule:
    """Satisfies a function that an installed package offers under `promptbake.checks`.

    Never a function by its path: settings from elsewhere could name any that is installed.
    """
    offered = {each.name: each for each in entry_points(group=ENTRY_POINTS)}
    if name not in offered:
        raise BakeError(
            f"{key}: no installed package offers {name!r} as an entry point of {ENTRY_POINTS}; "
            f"offered: {', '.join(sorted(offered)) or 'none'}{nearest(name, offered)}"
        )
    function: Callable[[str], object] = offered[name].load()
    return lambda answer: bool(function(answer))


def _needed(module: str, key: str) -> Any:
    import importlib

    try:
        return importlib.import_module(module)
    except ImportError:
        raise BakeError(
            f"{key}: needs the package {module}; run `pip install 'promptbake[checks]'`"
        ) from None
