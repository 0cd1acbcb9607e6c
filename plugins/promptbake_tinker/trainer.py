"""The core's Trainer on Tinker: requests that are sent before the last ones are waited for."""

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
        self._start = _state_of(start) if start else None
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
                f"{self._resumed_from}: is gone; states are kept for "
                f"{self._base.settings.key}.state_ttl seconds. Delete {self._states} to bake anew: "
                "data and the teacher's answers are kept"
            ) from None
        return client

    def preflight(self, *, k: int, draws: int) -> Sequence[str]:
        """Ask for K log-probabilities and draws at one token, and for (N, K) of one datum."""
        base, lines = self._base, list[str]()
        if base.offered.trainable is False:
            raise BakeError(f"model.name = {base.name!r}: {self._service.where} does not train it")
        probe = [Span(base.renderer.prompt(PROBE), 1, name="preflight")]
        if k:
            list(self._model.top_k(probe, k=k, draws=0, seeds=[0]))
        if draws and not self._model.draws_alternatives(probe[0], draws):
            base.drawn_by_service = False
            lines.append(
                "the service draws no alternative tokens, so the response's own token stands for "
                "the tail, weighted for the temperature that it was sampled at"
            )
        if self._layout == "wide":
            self._check_wide()
        return lines

    def _check_wide(self) -> None:
        """Raise BakeError where the service does not honour (N, K) targets."""
        ids = torch.tensor([[1, 2], [3, 4]])
        data = [wide_datum((1, 2, 3), ids, torch.zeros(ids.shape))]
        settle = self._hold(data, forward=1, backward=0)
        future = self.client.forward(data, "cross_entropy")
        output = self._service.wait(future, "preflight, one datum of three tokens")
        settle()
        found = output.loss_fn_outputs[0]["logprobs"].to_torch()
        if found.shape != ids.shape:
            raise BakeError(
                f"{self._service.where}: makes {tuple(found.shape)} of targets of shape "
                f"{tuple(ids.shape)}, so it would train on a part of them; set "
                "options.backends.tinker.datum_layout=per_token"
            )

    def snapshot(self) -> Pending[Model]:
        """The student behind what has been sent so far."""
        future = self.client.save_weights_and_get_sampling_client()
        return self._pending(
            future, "weights to sample from", lambda sampler: TinkerModel(self._base, None, sampler)
        )

    def forward_backward(self, batch: Sequence[Example], objective: Objective) -> Pending[float]:
        """Add the gradient of the mean over the batch's response tokens.

        A loss that is linear in the student's log-probabilities is one pass of the service's
        weighted cross-entropy; another takes a forward pass first, and its gradient here.
        """
        tokens = sum(example.datum.n_response for example in batch)
        given = [objective.weights(example.support) for example in batch]
        weights = [
            torch.zeros_like(example.support.logprobs) if weight is None else weight / tokens
            for example, weight in zip(batch, given, strict=True)
        ]
        data = data_of(batch, weights, self._layout)
        linear = all(weight is not None for weight in given)
        settle = self._hold(data, forward=0 if linear else 1, backward=1)

        def loss_of(logprobs: Sequence[Tensor]) -> Tensor:
            found = response_logprobs(batch, logprobs, self._layout)
            losses = [
                objective.nats(student, example.support).sum()
                for student, example in zip(found, batch, strict=True)
            ]
            return torch.stack(losses).sum() / tokens

        self._sent += 1
        if linear:
            future: Any = self.client.forward_backward(data, "cross_entropy")
        else:
            future = self.client.forward_backward_custom(
                data, lambda _, logprobs: (loss_of(logprobs), {})
            )

        def finished(output: tinker.ForwardBackwardOutput) -> float:
            settle()
            if not linear:
                return output.metrics["loss:sum"]
            return float(loss_of([each["logprobs"].to_torch() for each in output.loss_fn_outputs]))

        return self._pending(future, f"step {self._sent} of this run", finished)

    def optim_step(self, lr: float) -> Pending[None]:
        """One AdamW step."""
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
        """Weights and optimiser stay with the service; the state is their address.

        A few names are used in turn: as many as may be under way, and the last one that is known
        to be whole.
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
        """Go on from the address in it. Raises BakeError where there is none."""
        try:
            self._resumed_from = json.loads((folder / RECORD).read_bytes())["state"]
        except (OSError, ValueError, KeyError) as error:
            raise BakeError(
                f"{folder / RECORD}: tells no state to go on from ({error!r}); delete "
                f"{folder.parent} to bake anew"
            ) from None
        self._states = folder.parent

    def save_adapter(self, folder: Path) -> Checkpoint:
        """Weights to sample from and a state to export; tinker.json says where both are."""
        sampler = self.client.save_weights_for_sampler("baked")
        state = self.client.save_state("baked", overwrite=True)
        uri = self._service.wait(sampler, "the adapter").path
        details = {
            "sampler": uri,
            "state": self._service.wait(state, "the adapter's state").path,
            "renderer": getattr(self._base.renderer, "name", "chat_template"),
        }
        write_json(folder / RECORD, details | {"base_model": self._base.name, "rank": self._rank})
        return Checkpoint(self._backend, self._base.name, self._model.digest, uri, details)

    def _pending(self, future: Any, what: str, then: Callable[[Any], Any]) -> Pending[Any]:
        return Waiting(self._service, future, what, then)

    def _hold(
        self, data: Sequence[tinker.Datum], *, forward: int, backward: int
    ) -> Callable[[], None]:
        """Reserve what passes over the data cost; a forward pass alone is counted as prefill."""
        tokens = sum(datum.model_input.length for datum in data)
        usage = Usage(
            forward + backward, input_tokens=forward * tokens, train_tokens=backward * tokens
        )
        prices = self._base.prices
        priced = prices.priced(usage) if prices else usage
        hold: Reservation = self._base.budget.reserve("train", priced)
        return lambda: hold.commit(priced)


def _state_of(checkpoint: Checkpoint) -> str:
    """The training state of an earlier bake. Raises BakeError where it is on no record."""
    state = checkpoint.details.get("state")
    if not state:
        raise BakeError(
            f"{checkpoint.uri}: nothing here says where its training state is, and Tinker does not "
            "train from what it samples from; start from a run that promptbake baked"
        )
    return state
