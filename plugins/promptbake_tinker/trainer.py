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
    Message,
    Model,
    Objective,
    Pending,
    Reservation,
    Span,
    TrainingState,
    Usage,
    write_json,
)
from promptbake_tinker.datum_layout import data_of, response_logprobs, wide_datum
from promptbake_tinker.model import TinkerModel
from promptbake_tinker.service import Waiting

RECORD = "tinker.json"
PROBE = (Message("user", "?"),)


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
        self._saves = 0
        self.steps_in_flight = model.base.settings.steps_in_flight

    @cached_property
    def client(self) -> tinker.TrainingClient:
        """The SDK's client of the training run."""
        service = self._service.client
        if self._resumed_from is not None:
            what = f"resuming from {self._resumed_from}"
            future = service.create_training_client_from_state_with_optimizer(self._resumed_from)
        elif self._start is not None:
            what = f"a LoRA that starts from {self._start}"
            future = service.create_training_client_from_state(self._start)
        else:
            what = f"a LoRA of rank {self._rank} on {self._base.name}"
            future = service.create_lora_training_client(
                base_model=self._base.served,
                rank=self._rank,
                seed=self._seed,
                train_unembed=self._base.settings.train_unembed,
            )
        try:
            client: tinker.TrainingClient = self._service.wait(future, what)
        except BakeError as error:
            if self._resumed_from is None or "no such checkpoint" not in str(error):
                raise
            raise BakeError(
                f"{self._resumed_from}: has expired; states are kept for "
                f"{self._base.settings.key}.state_ttl seconds. Delete {self._states} to bake anew; "
                "data and the teacher's log-probabilities are kept"
            ) from None
        return client

    def preflight(self, *, k: int, draws: int) -> Sequence[str]:
        """Request K log-probabilities and draws at one token, and (N, K) of one datum."""
        base = self._base
        if base.supported_model.trainable is False:
            raise BakeError(f"model.name = {base.name!r}: {self._service.where} does not train it")
        probe = [Span(base.renderer.prompt(PROBE), 1, name="preflight")]
        if k:
            list(self._model.top_k(probe, k=k, draws=0, seeds=[0]))
        if draws and not self._model.draws_alternatives(probe[0], draws):
            raise BakeError(
                "train.tail = 'sampled': the service draws no tokens from the tail; set "
                "train.tail=bucket"
            )
        if self._layout == "wide":
            self._check_wide()
        return []

    def _check_wide(self) -> None:
        """Raise BakeError if the service does not support (N, K) targets."""
        ids = torch.tensor([[1, 2], [3, 4]])
        data = [wide_datum((1, 2, 3), ids, torch.zeros(ids.shape))]
        commit = self._reserve(data, forward=1, backward=0)
        future = self.client.forward(data, "cross_entropy")
        output = self._service.wait(future, "preflight, one datum of three tokens")
        commit()
        logprobs = output.loss_fn_outputs[0]["logprobs"].to_torch()
        if logprobs.shape != ids.shape:
            raise BakeError(
                f"{self._service.where}: returns {tuple(logprobs.shape)} for targets of shape "
                f"{tuple(ids.shape)}, so it would train on a part of them; set "
                f"{self._base.settings.key}.datum_layout=per_token"
            )

    def snapshot(self) -> Pending[Model]:
        """The student after all steps that have been sent."""
        future = self.client.save_weights_and_get_sampling_client()
        return self._pending(
            future, "weights to sample from", lambda sampler: TinkerModel(self._base, None, sampler)
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
        commit = self._reserve(data, forward=0 if linear else 1, backward=1)

        def loss_of(logprobs: Sequence[Tensor]) -> Tensor:
            students = response_logprobs(batch, logprobs, self._layout)
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
            return float(loss_of([each["logprobs"].to_torch() for each in output.loss_fn_outputs]))

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
        prices = self._base.prices
        priced = prices.priced(usage) if prices else usage
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
