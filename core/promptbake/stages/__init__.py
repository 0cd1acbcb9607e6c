"""The stages of a run, a module each: `run` (or `make`, `write`) does what the command does.

A stage reads files and writes files.
"""

from __future__ import annotations
