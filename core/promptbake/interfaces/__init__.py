"""What a plugin's objects must be able to do. Protocols: a plugin inherits nothing.

Tensors are torch tensors; log-probabilities are natural logarithms, in nats. Axes: N response
positions, K top tokens, M draws, C tokens of a loss's support, V entries of the vocabulary.
"""

from promptbake.interfaces.data import (
    DataProvider,
    GenerationJob,
    ResponseScores,
    Teacher,
    no_note,
)
from promptbake.interfaces.evaluation import EvalArm, EvalContext, Evaluator
from promptbake.interfaces.model import Model, Pending, Renderer, ScoringSampler, no_progress
from promptbake.interfaces.training import (
    Backend,
    BatchContext,
    BatchSource,
    Loss,
    Objective,
    Tracker,
    Trainer,
    TrainingState,
)

__all__ = [
    "Backend",
    "BatchContext",
    "BatchSource",
    "DataProvider",
    "EvalArm",
    "EvalContext",
    "Evaluator",
    "GenerationJob",
    "Loss",
    "Model",
    "Objective",
    "Pending",
    "Renderer",
    "ResponseScores",
    "ScoringSampler",
    "Teacher",
    "Tracker",
    "Trainer",
    "TrainingState",
    "no_note",
    "no_progress",
]
