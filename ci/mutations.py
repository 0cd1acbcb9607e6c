"""Mutations of text and bytes: what a damaged disk, another program or an attacker may leave."""

from __future__ import annotations

import random
import re

DEEP = 4000
LITERALS = (  # in place of a value, in the words of JSON, TOML and Python
    *("null", "true", '"false"', "0", "-1", "1.5", "1e300", "-1e300", "1e999", "NaN", "nan", "inf"),
    *("-Infinity", "9" * 5000, str(10**30), str(2**63), "-0.0", "[]", "{}", '""', '" "', '"NaN"'),
    *("[" * DEEP + "]" * DEEP, '{"a":' * DEEP + "1" + "}" * DEEP, "[1, 2]", '"1e400"', '"a\\nb"'),
    *('"\\ud800"', '"\\ud83d\\ude00"', '"\\u0000"', f'"{"x" * 300}"', f'"{"y" * 140_000}"'),
    *('[{"type": "text", "text": "a"}]', '[{"type": "image_url"}]', '{"a": {"b": 1}}', '"../../x"'),
    *("1979-05-27", "07:32:00", "1979-05-27T07:32:00Z", '"\\u001b[31m"', '"system"', '"length"'),
    *("<html>", "'", '"', "0x10", "1_000", "+1", '"user"', "[[[]]]", '{"role": "user"}', "'''a"),
)
BYTES = (
    *(b"\0", b"\xff", b"\xef\xbb\xbf", b"\xed\xa0\x80", b"\r", b"\n", b"\xe2\x80\xa8", b'"'),
    *(b"[" * DEEP, b"{", b"}", b"9" * 5000, b"\x1b[2J", b"\t", b"=", b"\\", b"{% x %}", b","),
)
TOKEN = re.compile(r'"(?:[^"\\\n]|\\.)*"|-?\d[\d.eE+-]*|\btrue\b|\bfalse\b|\bnull\b|\b[A-Za-z_]+\b')


def mutated(content: bytes, rng: random.Random) -> bytes:
    """The content after one to three changes; text is mostly changed value by value."""
    for _ in range(rng.choice((1, 1, 1, 2, 3))):
        try:
            text = content.decode()
        except UnicodeDecodeError:
            text = ""
        if text and rng.random() < 0.6:
            content = _change_token(text, rng).encode("utf-8", "surrogatepass")
        else:
            content = _change_bytes(content, rng)
    return content


def _change_token(text: str, rng: random.Random) -> str:
    """Replace, delete or repeat a value or a name."""
    tokens = list(TOKEN.finditer(text))
    if not tokens:
        return text + rng.choice(LITERALS)
    token, other = rng.choice(tokens), rng.choice(tokens)
    new = rng.choice((*[rng.choice(LITERALS)] * 6, "", token[0] * 2, other[0], token[0].upper()))
    return text[: token.start()] + new + text[token.end() :]


def _change_bytes(content: bytes, rng: random.Random) -> bytes:
    """Flip, insert, delete, repeat or cut; or do so with whole lines."""
    at, length = rng.randrange(len(content) + 1), rng.choice((1, 2, 8, 100))
    before, part, after = content[:at], content[at : at + length], content[at + length :]
    lines = content.splitlines(keepends=True) or [b""]
    line = rng.randrange(len(lines))
    return rng.choice(
        (
            before + bytes(rng.randrange(256) for _ in part) + after,
            before + rng.choice(BYTES) + content[at:],
            before + rng.choice(BYTES) + content[at:],
            before + after,
            before + part * 3 + after,
            before,
            rng.choice((b"", b"\n", content * 2, rng.choice(LITERALS).encode())),
            b"".join(lines[:line] + lines[line + 1 :]),
            b"".join(lines[: line + 1] + lines[line:]),
        )
    )
