"""promptbake: bake a system prompt into a language model's weights, and prove it.

The names in `__all__` are the public ones: what a program, a notebook or a plugin may rely on. They
import in milliseconds; torch comes with the first stage that needs it.
"""

from importlib import import_module
from typing import TYPE_CHECKING

from promptbake.api import Job, bake, chat, data, export, plan, verify
from promptbake.concurrency import gather
from promptbake.costs import Budget, Hold, NoBudget
from promptbake.errors import BakeError, BudgetError
from promptbake.interfaces import (
    Backend,
    DataProvider,
    Evaluator,
    Evidence,
    Generation,
    Loss,
    Model,
    Objective,
    Pending,
    Renderer,
    State,
    Teacher,
    Tracker,
    Trainer,
)
from promptbake.plugins.hookspecs import API_VERSION, TUNING, Factories, hookimpl, needs
from promptbake.seeds import derive
from promptbake.types import (
    ARMS,
    Answer,
    Arm,
    Checkpoint,
    Columns,
    Completion,
    Conversation,
    Dataset,
    Datum,
    Datums,
    Done,
    Example,
    Measurement,
    Message,
    Prompt,
    Proof,
    Query,
    Quote,
    Rejection,
    Request,
    Role,
    Span,
    StepMetrics,
    Tail,
    Targets,
    TokenIds,
    Usage,
    Work,
)
from promptbake.version import __version__

if TYPE_CHECKING:
    from promptbake.dataset.chat_template import ChatRenderer
    from promptbake.distill.objective import outside, realised_draw, tail_measure

__all__ = [
    "API_VERSION",
    "ARMS",
    "TUNING",
    "Answer",
    "Arm",
    "Backend",
    "BakeError",
    "Budget",
    "BudgetError",
    "ChatRenderer",
    "Checkpoint",
    "Columns",
    "Completion",
    "Conversation",
    "DataProvider",
    "Dataset",
    "Datum",
    "Datums",
    "Done",
    "Evaluator",
    "Evidence",
    "Example",
    "Factories",
    "Generation",
    "Hold",
    "Job",
    "Loss",
    "Measurement",
    "Message",
    "Model",
    "NoBudget",
    "Objective",
    "Pending",
    "Prompt",
    "Proof",
    "Query",
    "Quote",
    "Rejection",
    "Renderer",
    "Request",
    "Role",
    "Span",
    "State",
    "StepMetrics",
    "Tail",
    "Targets",
    "Teacher",
    "TokenIds",
    "Tracker",
    "Trainer",
    "Usage",
    "Work",
    "__version__",
    "bake",
    "chat",
    "data",
    "derive",
    "export",
    "gather",
    "hookimpl",
    "needs",
    "outside",
    "plan",
    "realised_draw",
    "tail_measure",
    "verify",
]

_WITH_TORCH = {
    "ChatRenderer": "promptbake.dataset.chat_template",
    "outside": "promptbake.distill.objective",
    "realised_draw": "promptbake.distill.objective",
    "tail_measure": "promptbake.distill.objective",
}


def __getattr__(name: str) -> object:
    if name in _WITH_TORCH:
        return getattr(import_module(_WITH_TORCH[name]), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
