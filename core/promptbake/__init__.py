"""promptbake: bake a system prompt into a language model's weights, and measure the result.

The names in `__all__` are the public ones: what a program, a notebook or a plugin may rely on. They
import in milliseconds; torch and pydantic come with the first use of what needs them.
"""

from importlib import import_module
from typing import TYPE_CHECKING

from promptbake.api import Job, bake, chat, data, export, plan, verify
from promptbake.commands import Help
from promptbake.concurrency import gather, run_in_thread
from promptbake.costs import (
    NO_COST,
    Budget,
    CostEstimate,
    LogprobsWork,
    NoBudget,
    Reservation,
    SampleWork,
    TopKWork,
    TrainWork,
    Usage,
    WorkItem,
)
from promptbake.dataset.conversations import check_messages, read_objects
from promptbake.dataset.model_teacher import ModelTeacher
from promptbake.dataset.sampling import decode_stream, estimate_responses, sample_responses
from promptbake.errors import BakeError, BudgetError, nearest
from promptbake.files import (
    JsonLines,
    atomic_folder,
    cache_folder,
    check_free_space,
    digest_file,
    read_json_lines,
    write_atomic,
    write_json,
)
from promptbake.interfaces import (
    Backend,
    BatchContext,
    BatchSource,
    DataProvider,
    EvalArm,
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
    no_note,
    no_progress,
)
from promptbake.plugins.hookspecs import (
    API_VERSION,
    RUNTIME_ONLY,
    Factories,
    hookimpl,
    requires,
)
from promptbake.seeds import derive
from promptbake.types import (
    ARMS,
    Arm,
    ArmAnswers,
    BakeTarget,
    Checkpoint,
    Completion,
    Conversation,
    Dataset,
    Datum,
    Example,
    GenerationRequest,
    ImmediateResult,
    KLByConversation,
    LossSupport,
    Measurement,
    Message,
    Prompt,
    Query,
    Rejection,
    Role,
    Span,
    StepMetrics,
    StopReason,
    StreamChunk,
    Tail,
    TeacherLogprobs,
    TokenIds,
)
from promptbake.version import __version__

if TYPE_CHECKING:
    from promptbake.dataset.chat_template import ChatRenderer
    from promptbake.distill.objective import (
        mask_top_k_draws,
        response_token_as_draw,
        tail_importance_weights,
    )
    from promptbake.report.verify_result import VerifyResult
    from promptbake.runs.session import Session

__all__ = [
    "API_VERSION",
    "ARMS",
    "NO_COST",
    "RUNTIME_ONLY",
    "Arm",
    "ArmAnswers",
    "Backend",
    "BakeError",
    "BakeTarget",
    "BatchContext",
    "BatchSource",
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
    "EvalArm",
    "EvalContext",
    "Evaluator",
    "Example",
    "Factories",
    "GenerationJob",
    "GenerationRequest",
    "Help",
    "ImmediateResult",
    "Job",
    "JsonLines",
    "KLByConversation",
    "LogprobsWork",
    "Loss",
    "LossSupport",
    "Measurement",
    "Message",
    "Model",
    "ModelTeacher",
    "NoBudget",
    "Objective",
    "Pending",
    "Prompt",
    "Query",
    "Rejection",
    "Renderer",
    "Reservation",
    "Role",
    "SampleWork",
    "Session",
    "Span",
    "StepMetrics",
    "StopReason",
    "StreamChunk",
    "Tail",
    "Teacher",
    "TeacherLogprobs",
    "TokenIds",
    "TopKWork",
    "Tracker",
    "TrainWork",
    "Trainer",
    "TrainingState",
    "Usage",
    "VerifyResult",
    "WorkItem",
    "__version__",
    "atomic_folder",
    "bake",
    "cache_folder",
    "chat",
    "check_free_space",
    "check_messages",
    "data",
    "decode_stream",
    "derive",
    "digest_file",
    "estimate_responses",
    "export",
    "gather",
    "hookimpl",
    "mask_top_k_draws",
    "nearest",
    "no_note",
    "no_progress",
    "plan",
    "read_json_lines",
    "read_objects",
    "requires",
    "response_token_as_draw",
    "run_in_thread",
    "sample_responses",
    "tail_importance_weights",
    "verify",
    "write_atomic",
    "write_json",
]

_LAZY = {
    "ChatRenderer": "promptbake.dataset.chat_template",
    "Session": "promptbake.runs.session",
    "VerifyResult": "promptbake.report.verify_result",
    "mask_top_k_draws": "promptbake.distill.objective",
    "response_token_as_draw": "promptbake.distill.objective",
    "tail_importance_weights": "promptbake.distill.objective",
}


def __getattr__(name: str) -> object:
    if name in _LAZY:
        return getattr(import_module(_LAZY[name]), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
