"""For plugin authors: a conformance suite for each kind, and a tiny real model to try them on.

The suites need pytest; the tiny model does not.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from promptbake.testing.backends.suite import BackendSuite
    from promptbake.testing.evaluators import EvaluatorSuite
    from promptbake.testing.losses import LossSuite, WorkedExample
    from promptbake.testing.plugins import PluginSuite
    from promptbake.testing.providers.suite import DataProviderSuite
    from promptbake.testing.recording import RecordingBudget, RecordingModel
    from promptbake.testing.suite import Suite
    from promptbake.testing.teachers.suite import TeacherSuite
    from promptbake.testing.tiny import save_tiny, tiny_model, tiny_tokenizer
    from promptbake.testing.trackers import TrackerSuite

__all__ = [
    "BackendSuite",
    "DataProviderSuite",
    "EvaluatorSuite",
    "LossSuite",
    "PluginSuite",
    "RecordingBudget",
    "RecordingModel",
    "Suite",
    "TeacherSuite",
    "TrackerSuite",
    "WorkedExample",
    "save_tiny",
    "tiny_model",
    "tiny_tokenizer",
]

_MODULES = {
    "BackendSuite": "backends.suite",
    "DataProviderSuite": "providers.suite",
    "EvaluatorSuite": "evaluators",
    "LossSuite": "losses",
    "PluginSuite": "plugins",
    "RecordingBudget": "recording",
    "RecordingModel": "recording",
    "Suite": "suite",
    "TeacherSuite": "teachers.suite",
    "TrackerSuite": "trackers",
    "WorkedExample": "losses",
    "save_tiny": "tiny",
    "tiny_model": "tiny",
    "tiny_tokenizer": "tiny",
}


def __getattr__(name: str) -> object:
    if name in _MODULES:
        return getattr(import_module(f"promptbake.testing.{_MODULES[name]}"), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
