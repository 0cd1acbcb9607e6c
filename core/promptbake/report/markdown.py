"""Text from outside in Markdown: shown as it is, whatever characters it has."""

from __future__ import annotations

import re
from collections.abc import Sequence

from promptbake.redaction import CONTROL

MARKS = re.compile(r"([\\`*_{}\[\]<>|~&$:@^])")  # within a line
# Of headings and lists; and the dot of a link without a scheme.
BEGINNINGS = re.compile(r"^([#+=\-]|\d+(?=[.)]( |$)))|(?<=www)(?=\.)")
TICKS = re.compile("`+")


def escape(text: str) -> str:
    """The text on one line, without markup: every mark of Markdown, HTML and tables is escaped."""
    line = MARKS.sub(r"\\\1", visible(" ".join(text.split())))
    return BEGINNINGS.sub(lambda found: _escape_beginning(found[0]), line)


def fenced(text: str) -> str:
    """The text as a code block, between fences longer than any that it holds."""
    longest = max((len(ticks) for ticks in TICKS.findall(text)), default=0)
    fence = "`" * max(3, longest + 1)
    return f"{fence}text\n{visible(text)}\n{fence}"


def table(header: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """A table of cells that are Markdown."""
    lines = [header, ["---"] * len(header), *rows]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def visible(text: str) -> str:
    """The text with control characters and halves of characters replaced."""
    return CONTROL.sub("\N{REPLACEMENT CHARACTER}", text).encode("utf-8", "replace").decode()


def _escape_beginning(text: str) -> str:
    """A number of a list keeps its digits: what follows them is escaped."""
    return f"{text}\\" if text.isdigit() or not text else f"\\{text}"
