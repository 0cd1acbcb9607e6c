"""promptbake: bake a system prompt into a language model's weights, and prove it.

The names in `__all__` are the public ones: what a program, a notebook or a plugin may rely on. They
import in milliseconds; torch comes with the first stage that needs it.
"""

from importlib import import_module
from typing import TYPE_CHECKING

from promptbake.api import Job, bake, chat, data, export, plan, verify
from promptbake.budget import Budget, Hold, NoBudget
from promptbake.errors import BakeError, BudgetError
from promptbake.hookspecs import API_VERSION, TUNING, Factories, hookimpl, needs
from promptbake.inflight import gather
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

if TYPE_CHECKING:
    from promptbake.chat_template import ChatRenderer
    from promptbake.objective import outside, realised_draw, tail_measure

__version__ = "0.1.0"
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
    "ChatRenderer": "promptbake.chat_template",
    "outside": "promptbake.objective",
    "realised_draw": "promptbake.objective",
    "tail_measure": "promptbake.objective",
}


def __getattr__(name: str) -> object:
    if name in _WITH_TORCH:
        return getattr(import_module(_WITH_TORCH[name]), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
