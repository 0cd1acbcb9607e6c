"""The public names for tests and where each is defined; they are imported at their first use."""

from .backends.suite import BackendSuite
from .evaluators import EvaluatorSuite
from .losses import LossSuite, WorkedExample
from .plugins import PluginSuite
from .providers.suite import DataProviderSuite
from .recording import RecordingBudget, RecordingModel
from .suite import Suite
from .teachers.suite import TeacherSuite
from .tiny import save_tiny, tiny_model, tiny_tokenizer
from .trackers import TrackerSuite

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
