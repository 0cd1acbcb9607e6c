"""A seeded fuzzer of everything that promptbake reads from outside.

`make fuzz` changes valid files and answers at random and gives them to the code that reads them. An
input must be taken, or refused with one line (exit code 2); anything else is a failure: another
exception, another exit code, or no end within LONGEST seconds. Every 25th input of a file goes
through the command line. `--only NUMBER` repeats one input of a seed and shows its traceback.
"""

from __future__ import annotations

import argparse
import os
import random
import shutil
import signal
import sys
import tempfile
import time
import traceback
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager, redirect_stderr, redirect_stdout
from dataclasses import dataclass, field
from io import StringIO
from pathlib import Path
from types import FrameType

from fuzz_readers import World, kinds

from promptbake.cli.main import main as promptbake
from promptbake.errors import BakeError

LONGEST = 20  # seconds that an input may take
CODES = (0, 1, 2)
COMMAND_EVERY = 25


class HangError(BaseException):
    """An input took longer than LONGEST seconds."""


@dataclass
class Counts:
    """What became of one kind's inputs."""

    inputs: int = 0
    refused: int = 0
    commands: int = 0
    failures: list[int] = field(default_factory=list)  # the inputs' numbers
    causes: Counter[str] = field(default_factory=Counter)
    seconds: float = 0.0


def run(
    seed: int, numbers: Iterator[int] | range, show: Callable[[str], object]
) -> dict[str, Counts]:
    """Give each numbered input to its reader; the by_kind by kind."""
    by_kind: dict[str, Counts] = {}
    with scratch_folder(), closing(World()) as world:
        drivers = kinds(world)
        for number in numbers:
            kind = list(drivers)[number % len(drivers)]
            counts = by_kind.setdefault(kind, Counts())
            begin = time.monotonic()
            rng = random.Random(f"{seed}:{number}")
            by_command = number // len(drivers) % COMMAND_EVERY == 0 and drivers[kind].commands
            counts.commands += bool(by_command)
            cause = outcome(drivers[kind].command if by_command else drivers[kind].read, rng)
            counts.inputs += 1
            counts.seconds += time.monotonic() - begin
            if cause == "refused":
                counts.refused += 1
            elif cause:
                counts.failures.append(number)
                counts.causes[cause.splitlines()[0]] += 1
                show(f"input {number} ({kind}): {cause}")
    return by_kind


def outcome(read: Callable[[random.Random], list[str] | None], rng: random.Random) -> str:
    """Nothing where an input is taken, 'refused', or why it is a failure."""
    err = StringIO()
    signal.alarm(LONGEST)
    try:
        with redirect_stdout(StringIO()), redirect_stderr(err):
            arguments = read(rng)
            if arguments is not None:
                promptbake(arguments)
    except BakeError as error:
        lines = str(error).splitlines()
        return "refused" if lines and len(str(error)) < 2000 else f"message: {str(error)[:200]!r}"
    except SystemExit as end:
        if end.code == 2 and "promptbake: " not in err.getvalue():
            return f"exit 2 without a line: {err.getvalue()[-200:]!r}"
        return "refused" if end.code in CODES else f"exit code {end.code}: {err.getvalue()[-200:]}"
    except KeyboardInterrupt:
        raise
    except BaseException as error:
        where = [f for f in traceback.extract_tb(error.__traceback__) if "promptbake" in f.filename]
        frame = where[-1] if where else None
        place = f"{Path(frame.filename).name}:{frame.lineno}" if frame else "?"
        return f"{type(error).__name__} at {place}\n{traceback.format_exc()}"
    finally:
        signal.alarm(0)
    return ""


@contextmanager
def scratch_folder() -> Iterator[None]:
    """A folder of its own as the current one, deleted afterwards."""

    def stop(number: int, frame: FrameType | None) -> None:
        raise HangError

    before, old = Path.cwd(), signal.signal(signal.SIGALRM, stop)
    folder = tempfile.mkdtemp(prefix="promptbake-fuzz-")
    os.chdir(folder)
    try:
        yield
    finally:
        os.chdir(before)
        signal.signal(signal.SIGALRM, old)
        shutil.rmtree(folder, ignore_errors=True)


def summary(by_kind: dict[str, Counts]) -> Iterator[str]:
    """A line for each kind, and each cause of a failure."""
    yield f"{'kind':<16}{'inputs':>8}{'refused':>9}{'commands':>9}{'failures':>9}{'a second':>9}"
    for kind, counts in sorted(by_kind.items()):
        rate = counts.inputs / max(counts.seconds, 1e-9)
        yield (
            f"{kind:<16}{counts.inputs:>8}{counts.refused:>9}{counts.commands:>9}"
            f"{len(counts.failures):>9}{rate:>9.0f}"
        )
    for kind, counts in sorted(by_kind.items()):
        for cause, count in counts.causes.most_common():
            yield f"{kind}: {count} x {cause}"


def main() -> None:
    """Run the fuzzer; exits 1 where an input failed."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--count", type=int, default=12_000)
    parser.add_argument("--first", type=int, default=0, help="the first input's number")
    parser.add_argument("--only", type=int, help="repeat one input, with its traceback")
    parser.add_argument("--verbose", action="store_true", help="show every traceback")
    given = parser.parse_args()
    if given.only is not None:
        numbers = range(given.only, given.only + 1)
    else:
        numbers = range(given.first, given.first + given.count)

    def progress() -> Iterator[int]:
        begin = time.monotonic()
        for done, number in enumerate(numbers):
            if done and done % 500 == 0:
                rate = done / (time.monotonic() - begin)
                left = (len(numbers) - done) / rate
                print(f"{done} of {len(numbers)}, {rate:.0f} a second, {left:.0f} s left",
                      file=sys.__stderr__, flush=True)  # fmt: skip
            yield number

    full = given.verbose or given.only is not None
    by_kind = run(
        given.seed,
        progress(),
        lambda text: print(text if full else text.splitlines()[0], file=sys.__stderr__),
    )
    print("\n".join(summary(by_kind)))  # noqa: T201
    sys.exit(any(counts.failures for counts in by_kind.values()))


if __name__ == "__main__":
    main()
