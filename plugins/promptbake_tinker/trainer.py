"""The core's Trainer on Tinker: requests are sent before the earlier ones have finished."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any

import tinker
import torch
from torch import Tensor

from promptbake import (
    BakeError,
    Checkpoint,
    Example,
    Model,
    Objective,
    Pending,
    Reservation,
    TrainingState,
    Usage,
    write_json,
)
from promptbake_tinker.datum_layout import data_of, response_logprobs
from promptbake_tinker.model import SEEDS, TinkerModel
from promptbake_tinker.preflight import NO_LOGPROBS, check_sampling, check_training, notes
from promptbake_tinker.service import Waiting, no_logprobs

RECORD = "tinker.json"
CURVE_TTL = 86400  # seconds that a state for a point of the held-out curve is kept


class TinkerTrainer:
    """A LoRA on a base model: fresh, from an earlier bake, or resumed. Opened at first use."""

    def __init__(
        self,
        model: TinkerModel,
        backend: str,
        rank: int,
        seed: int,
        start: Checkpoint | None = None,
    ) -> None:
        self._model, self._base, self._service = model, model.base, model.base.service
        self._backend, self._rank, self._seed = backend, rank, seed
        self._start = self._state_of(start) if start else None
        self._layout = model.base.settings.datum_layout
        self._resumed_from: str | None = None
        self._sent = 0  # steps, for messages
        self._returns_logprobs = True  # whether a step's output has them; set by preflight
        self._saves = 0
        self.steps_in_flight = model.base.settings.steps_in_flight

    @cached_property
    def client(self) -> tinker.TrainingClient:
        """The SDK's client of the training run."""
        if self._resumed_from is not None:
            what = f"resuming from {self._resumed_from}"
        elif self._start is not None:
            what = f"a LoRA that starts from {self._start}"
        else:
            what = f"a LoRA of rank {self._rank} on {self._base.name}"
        try:
            client: tinker.TrainingClient = self._service.create(self._create, what)
        except BakeError as error:
            if self._resumed_from is None or "no such checkpoint" not in str(error):
                raise
            raise BakeError(
                f"{self._resumed_from}: has expired; states are kept for "
                f"{self._base.settings.key}.state_ttl seconds. Delete {self._states} to bake anew; "
                "data and the teacher's log-probabilities are kept"
            ) from None
        return client

    def _create(self, service: tinker.ServiceClient) -> Any:
        """The SDK's future of the client."""
        if self._resumed_from is not None:
            return service.create_training_client_from_state_with_optimizer(self._resumed_from)
        if self._start is not None:
            return service.create_training_client_from_state(self._start)
        settings = self._base.settings
        seed = self._seed if settings.lora_seed is None else settings.lora_seed
        return service.create_lora_training_client(
            base_model=self._base.served,
            rank=self._rank,
            seed=seed % SEEDS,
            train_attn=settings.train_attn,
            train_mlp=settings.train_mlp,
            train_unembed=settings.train_unembed,
        )

    def preflight(self, *, k: int, draws: int) -> Sequence[str]:
        """Make each kind of request once, as wide as it will be, on a few tokens."""
        base, lines = self._base, notes(self._base)
        if base.supported_model.trainable is False:
            raise BakeError(f"model.name = {base.name!r}: {self._service.where} does not train it")
        if k:
            check_sampling(self._model, k, draws)
        if self._layout == "wide":
            lines += check_training(base, self.client, (k or 1) + draws)
            self._returns_logprobs = NO_LOGPROBS not in lines
        return lines

    def snapshot(self) -> Pending[Model]:
        """The student after all steps that have been sent.

        Where the service accepts too few ids in a sampling call, a state is saved as well, for a
        forward pass.
        """
        base, state = self._base, None
        sampler = self.client.save_weights_and_get_sampling_client()
        if base.scores_by_forward:
            name = f"curve-{self._sent % (self.steps_in_flight + 2)}"
            saved = self.client.save_state(name, ttl_seconds=CURVE_TTL, overwrite=True)
            state = self._pending(saved, "a state to score", lambda saved: str(saved.path))
        fresh = not (self._sent or self._start or self._resumed_from)

        def training() -> tinker.TrainingClient:
            return base.from_state(state.result()) if state else base.fresh

        scored = training if state or fresh else None
        return self._pending(
            sampler,
            "weights to sample from",
            lambda sampler: TinkerModel(base, None, sampler, scored),
        )

    def forward_backward(self, batch: Sequence[Example], objective: Objective) -> Pending[float]:
        """Add the gradient of the mean over the batch's response tokens.

        A loss that is linear in the student's log-probabilities takes one pass of the service's
        weighted cross-entropy; another takes a forward pass first, and its gradient is computed
        here.
        """
        tokens = sum(example.datum.n_response for example in batch)
        linear_weights = [objective.weights(example.support) for example in batch]
        weights = [
            torch.zeros_like(example.support.logprobs) if weight is None else weight / tokens
            for example, weight in zip(batch, linear_weights, strict=True)
        ]
        data = data_of(batch, weights, self._layout)
        linear = all(weight is not None for weight in linear_weights)
        if not (linear or self._returns_logprobs):
            raise no_logprobs(f"step {self._sent + 1} of this run")
        commit = self._reserve(data, forward=0 if linear else 1, backward=1)

        def loss_of(logprobs: Sequence[Tensor]) -> Tensor:
            return loss_at(response_logprobs(batch, logprobs, self._layout))

        def loss_at(students: Sequence[Tensor]) -> Tensor:
            losses = [
                objective.nats(student, example.support).sum()
                for student, example in zip(students, batch, strict=True)
            ]
            return torch.stack(losses).sum() / tokens

        self._sent += 1
        if linear:
            future: Any = self.client.forward_backward(data, "cross_entropy")
        else:
            future = self.client.forward_backward_custom(
                data, lambda _, logprobs: (loss_of(logprobs), {})
            )

        def loss_value(output: tinker.ForwardBackwardOutput) -> float:
            commit()
            if not linear:
                return output.metrics["loss:sum"]
            outputs = output.loss_fn_outputs
            if all("logprobs" in each for each in outputs):
                return float(loss_of([each["logprobs"].to_torch() for each in outputs]))
            # The service may leave them out. Its sum is the part that depends on the student.
            rest = loss_at([torch.zeros_like(example.support.logprobs) for example in batch])
            return float(rest) + output.metrics["loss:sum"]

        return self._pending(future, f"step {self._sent} of this run", loss_value)

    def optim_step(self, lr: float) -> Pending[None]:
        """Take one AdamW step."""
        settings = self._base.settings
        params = tinker.AdamParams(
            learning_rate=lr,
            beta1=settings.betas[0],
            beta2=settings.betas[1],
            eps=settings.eps,
            grad_clip_norm=settings.max_grad_norm,
        )
        future = self.client.optim_step(params)
        return self._pending(future, f"step {self._sent} of this run", lambda _: None)

    def save_state(self, step: int) -> Pending[TrainingState]:
        """Save weights and optimizer at the service; the state is their address.

        A few names are used in turn: as many as may be in flight, and the last one that is known
        to be complete.
        """
        self._saves += 1
        slot = self._saves % (self.steps_in_flight + 2)
        future = self.client.save_state(
            f"state-{slot}", ttl_seconds=int(self._base.settings.state_ttl), overwrite=True
        )
        return self._pending(
            future,
            f"the state after step {step}",
            lambda saved: {RECORD: json.dumps({"state": saved.path, "step": step}).encode()},
        )

    def load_state(self, folder: Path) -> None:
        """Resume from the address in `folder`. Raises BakeError if there is none."""
        try:
            self._resumed_from = json.loads((folder / RECORD).read_bytes())["state"]
        except (OSError, ValueError, KeyError) as error:
            raise BakeError(
                f"{folder / RECORD}: has no state to resume from ({error!r}); delete "
                f"{folder.parent} to bake anew"
            ) from None
        self._states = folder.parent

    def save_adapter(self, folder: Path) -> Checkpoint:
        """Save weights to sample from and a state to export; tinker.json has both addresses."""
        sampler = self.client.save_weights_for_sampler("baked")
        state = self.client.save_state("baked", overwrite=True)
        uri = self._service.wait(sampler, "the adapter").path
        details = {
            "sampler": uri,
            "state": self._service.wait(state, "the adapter's state").path,
            "renderer": getattr(self._base.renderer, "name", "chat_template"),
            "rank": str(self._rank),
        }
        write_json(folder / RECORD, details | {"base_model": self._base.name})
        return Checkpoint(self._backend, self._base.name, self._model.digest, uri, details)

    def _pending(self, future: Any, what: str, then: Callable[[Any], Any]) -> Pending[Any]:
        return Waiting(self._service, future, what, then)

    def _reserve(
        self, data: Sequence[tinker.Datum], *, forward: int, backward: int
    ) -> Callable[[], None]:
        """Reserve the cost of passes over the data; a forward pass is counted as prefill."""
        tokens = sum(datum.model_input.length for datum in data)
        usage = Usage(
            forward + backward, input_tokens=forward * tokens, train_tokens=backward * tokens
        )
        priced = self._base.priced(usage)
        reservation: Reservation = self._base.budget.reserve("train", priced)
        return lambda: reservation.commit(priced)

    def _state_of(self, start: Checkpoint) -> str:
        """The training state of an earlier bake. Raises BakeError if it does not fit this one."""
        state, rank = start.details.get("state"), start.details.get("rank")
        if not state or not rank:
            raise BakeError(
                f"{start.uri}: there is no record of its training state and rank, and Tinker does "
                "not train from weights to sample from; start from a run that promptbake baked"
            )
        if start.base_digest != self._model.digest:
            raise BakeError(
                f"{start.uri}: was baked into {start.base_model}, not into {self._base.name}"
            )
        if rank != str(self._rank):
            raise BakeError(
                f"{start.uri}: has rank {rank}, and this bake train.rank = {self._rank}; set "
                f"train.rank={rank}"
            )
        return state
