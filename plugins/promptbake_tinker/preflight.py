"""What is found out before the teacher is paid: the requests of a bake, as wide as they will be."""

from __future__ import annotations

import tinker
import torch
from tinker_cookbook import hyperparam_utils
from tinker_cookbook.exceptions import ConfigurationError

from promptbake import BakeError, Message, Span
from promptbake_tinker.base import Base
from promptbake_tinker.datum_layout import wide_datum
from promptbake_tinker.model import UNSUPPORTED, TinkerModel
from promptbake_tinker.scoring import forward
from promptbake_tinker.service import RefusalError

PROBE = (Message("user", "?"),)
IDS = 128  # which every vocabulary has
NO_LOGPROBS = (
    "the service returns no log-probabilities of a step, so that the loss is taken from its sum; "
    "a loss that is not linear in them cannot be trained on"
)


def check_sampling(model: TinkerModel, k: int, draws: int) -> None:
    """The teacher's call and the held-out call at one token. Raises BakeError."""
    span = Span(model.renderer.prompt(PROBE), 1, name="preflight")
    try:
        list(model.top_k([span], k=k, draws=draws, seeds=[0]))
    except BakeError as error:
        if not draws or UNSUPPORTED not in str(error):
            raise
        raise BakeError(
            "train.tail = 'sampled': the service draws no tokens from the tail; set "
            "train.tail=bucket"
        ) from None
    list(model.logprobs([span], [torch.arange(k).unsqueeze(0) % IDS]))


def check_training(base: Base, client: tinker.TrainingClient, width: int) -> list[str]:
    """A forward pass over one datum whose positions have `width` targets. Raises BakeError."""
    ids = torch.arange(2 * width).reshape(2, width) % IDS
    weights = torch.zeros(2, width)
    weights[:, -1] = 1.0
    where, layout = base.service.where, f"{base.settings.key}.datum_layout=per_token"
    try:
        what = f"preflight, targets of shape {tuple(ids.shape)}"
        output = forward(base, client, [wide_datum((1, 2, 3), ids, weights)], "train", what)
    except RefusalError as error:
        raise BakeError(
            f"{error}: teacher.top_k and train.tail_draws make {width} columns; lower them, or set "
            f"{layout}"
        ) from None
    (returned,) = output.loss_fn_outputs
    if "logprobs" in returned:
        shape = tuple(returned["logprobs"].to_torch().shape)
    else:  # the weight is on the last column alone
        shape = tuple(ids.shape) if output.metrics["loss:sum"] else (2,)
    if shape != tuple(ids.shape):
        raise BakeError(
            f"{where}: returns {shape} for targets of shape {tuple(ids.shape)}, so it would train "
            f"on a part of them; set {layout}"
        )
    return [] if "logprobs" in returned else [NO_LOGPROBS]


def notes(base: Base) -> list[str]:
    """What a user should know of this model before it is trained."""
    lines = []
    if base.settings.train_unembed and base.tied_embeddings:
        lines.append(
            f"{base.name} has tied embeddings: an adapter on the unembedding is used on Tinker "
            f"alone; to export it later, set {base.settings.key}.train_unembed=false"
        )
    if (lr := recommended_lr(base.name)) is not None:
        lines.append(f"tinker-cookbook recommends train.lr={lr:.1e} for {base.name}")
    return lines


def recommended_lr(model: str) -> float | None:
    """tinker-cookbook's learning rate of a LoRA; None where it has none."""
    try:
        return float(hyperparam_utils.get_lr(model))
    except (NotImplementedError, ConfigurationError, OSError, ValueError):
        return None
