"""promptbake: bake a system prompt into a language model's weights, and prove it.

The names in `__all__` are the public ones: what a program, a notebook or a plugin may rely on. They
import in milliseconds; torch comes with the first stage that requires it.
"""

from importlib import import_module
from typing import TYPE_CHECKING

from promptbake.api import Job, bake, chat, data, export, plan, verify
from promptbake.concurrency import gather
from promptbake.costs import Budget, NoBudget, Reservation
from promptbake.errors import BakeError, BudgetError
from promptbake.interfaces import (
    Backend,
    DataProvider,
    EvalContext,
    Evaluator,
    GenerationJob,
    Loss,
    Model,
    Objective,
    Pending,
    Renderer,
    Teacher,
    Tracker,
    Trainer,
    TrainingState,
)
from promptbake.plugins.hookspecs import API_VERSION, RUNTIME_ONLY, Factories, hookimpl, requires
from promptbake.seeds import derive
from promptbake.types import (
    ARMS,
    Arm,
    ArmAnswers,
    Checkpoint,
    Completion,
    Conversation,
    CostEstimate,
    Dataset,
    Datum,
    Datums,
    Example,
    GenerationRequest,
    ImmediateResult,
    LossSupport,
    Measurement,
    Message,
    Prompt,
    Query,
    Rejection,
    Role,
    Span,
    StepMetrics,
    Tail,
    TeacherLogprobs,
    TokenIds,
    Usage,
    VerifyResult,
    Work,
)
from promptbake.version import __version__

if TYPE_CHECKING:
    from promptbake.dataset.chat_template import ChatRenderer
    from promptbake.distill.objective import (
        mask_top_k_draws,
        response_token_as_draw,
        tail_importance_weights,
    )

__all__ = [
    "API_VERSION",
    "ARMS",
    "RUNTIME_ONLY",
    "Arm",
    "ArmAnswers",
    "Backend",
    "BakeError",
    "Budget",
    "BudgetError",
    "ChatRenderer",
    "Checkpoint",
    "Completion",
    "Conversation",
    "CostEstimate",
    "DataProvider",
    "Dataset",
    "Datum",
    "Datums",
    "EvalContext",
    "Evaluator",
    "Example",
    "Factories",
    "GenerationJob",
    "GenerationRequest",
    "ImmediateResult",
    "Job",
    "Loss",
    "LossSupport",
    "Measurement",
    "Message",
    "Model",
    "NoBudget",
    "Objective",
    "Pending",
    "Prompt",
    "Query",
    "Rejection",
    "Renderer",
    "Reservation",
    "Role",
    "Span",
    "StepMetrics",
    "Tail",
    "Teacher",
    "TeacherLogprobs",
    "TokenIds",
    "Tracker",
    "Trainer",
    "TrainingState",
    "Usage",
    "VerifyResult",
    "Work",
    "__version__",
    "bake",
    "chat",
    "data",
    "derive",
    "export",
    "gather",
    "hookimpl",
    "mask_top_k_draws",
    "plan",
    "requires",
    "response_token_as_draw",
    "tail_importance_weights",
    "verify",
]

_WITH_TORCH = {
    "ChatRenderer": "promptbake.dataset.chat_template",
    "mask_top_k_draws": "promptbake.distill.objective",
    "response_token_as_draw": "promptbake.distill.objective",
    "tail_importance_weights": "promptbake.distill.objective",
}


def __getattr__(name: str) -> object:
    if name in _WITH_TORCH:
        return getattr(import_module(_WITH_TORCH[name]), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
