"""The training side of the service: models, gradients, steps and saves."""

from __future__ import annotations

import secrets
from collections.abc import Callable, Mapping
from dataclasses import fields
from typing import Any

import safetensors.torch
import torch
from tinker.proto.tinker_public_pb2 import ForwardBackwardRequest

from promptbake_loopback.errors import HttpError, UserError
from promptbake_loopback.tinker import protobuf
from promptbake_loopback.tinker.checkpoints import (
    FILES,
    OPTIMIZER,
    UNLISTED,
    WEIGHTS,
    Run,
    Sampler,
    Store,
)
from promptbake_loopback.tinker.engine import Datum, Engine
from promptbake_loopback.tinker.export import exported
from promptbake_loopback.tinker.faults import MAX_COLUMNS
from promptbake_loopback.tinker.lora import AdamParams, Lora, LoraShape, Optimizer
from promptbake_loopback.tinker.operations import Operations, Outcome, Sequencer

Json = Mapping[str, Any]
LOSS = "cross_entropy"
ADAM = frozenset(field.name for field in fields(AdamParams))


class Model:
    """A model in training: known from its creation on, in memory once that has been executed."""

    def __init__(self, model_id: str) -> None:
        self.id = model_id
        self.sequencer = Sequencer()
        self.run: Run | None = None
        self.lora: Lora | None = None
        self.optimizer: Optimizer | None = None

    def begin(self, run: Run, lora: Lora) -> None:
        """Its weights are there."""
        self.run, self.lora, self.optimizer = run, lora, Optimizer(lora)

    def parts(self) -> tuple[Lora, Optimizer]:
        """Raises UserError for a model whose creation failed."""
        if self.lora is None or self.optimizer is None:
            raise UserError(f"{self.id}: was not created")
        return self.lora, self.optimizer


class Training:
    """Accepts requests, and executes them through `operations`."""

    def __init__(self, engine: Engine, store: Store, operations: Operations) -> None:
        self._engine = engine
        self._store = store
        self._operations = operations
        self._models: dict[str, Model] = {}

    def create_model(self, body: Json) -> Json:
        """A fresh LoRA on the base model."""
        self._check_base(body["base_model"])
        _check_adam(body.get("optimizer_config"))
        model = self._new(body)
        lora = body.get("lora_config") or {"rank": 32}
        seed = lora.get("seed")

        def work(_: str | None) -> Outcome:
            groups = {name: lora.get(f"train_{name}", True) for name in ("attn", "mlp", "unembed")}
            shape = LoraShape(lora["rank"], **groups)
            weights = self._engine.new_lora(
                shape, secrets.randbelow(2**63) if seed is None else seed
            )
            self._begin(model, weights)
            return Outcome({"model_id": model.id, "type": "create_model"}, {"models_created": 1})

        self._operations.submit(f"{model.id}:0", "create_model", work)
        return {"request_id": f"{model.id}:0", "model_id": model.id}

    def load_weights(self, body: Json) -> Json:
        """A new model from a checkpoint."""
        self._check_base(body.get("base_model") or self._engine.name)
        _check_adam(body.get("optimizer_config"))
        model = self._new(body)

        def work(_: str | None) -> Outcome:
            result = self._load(model, body)
            return Outcome(result.result, {"models_created": 1})

        self._operations.submit(f"{model.id}:0", "load_weights", work)
        return {"request_id": f"{model.id}:0", "model_id": model.id}

    def forward_backward(self, request: ForwardBackwardRequest) -> Json:
        """Log-probabilities, and unless `forward_only` the gradient."""
        model = self.model(request.model_id)
        name = "forward" if request.forward_only else "forward_backward"
        key = f"{model.id}:{request.seq_id}"

        def work(fault: str | None) -> Outcome:
            return self._forward_backward(model, request, fault)

        self._operations.submit(key, name, work, model.sequencer, request.seq_id)
        return {"request_id": key, "model_id": model.id}

    def optim_step(self, body: Json) -> Json:
        """One step of AdamW."""

        def work(model: Model) -> Outcome:
            if "adam_params" not in body:
                raise UserError("optim_step: this server trains with adam_params only")
            if unknown := set(body["adam_params"]) - ADAM:
                raise UserError(f"optim_step: adam_params has no {sorted(unknown)}")
            model.parts()[1].step(AdamParams(**body["adam_params"]))
            return Outcome({"metrics": {}, "type": "optim_step"}, {"optim_steps": 1})

        return self._submit(body, "optim_step", work)

    def save_weights(self, body: Json) -> Json:
        """A checkpoint to resume training from."""

        def work(model: Model) -> Outcome:
            lora, optimizer = model.parts()
            files = {
                WEIGHTS: safetensors.torch.save(lora.tensors()),
                OPTIMIZER: safetensors.torch.save(optimizer.state()),
            }
            return self._save(model, "weights", body, files)

        return self._submit(body, "save_weights", work)

    def save_weights_for_sampler(self, body: Json) -> Json:
        """A checkpoint to sample from: by its name, or at once by a new sampling session."""

        def work(model: Model) -> Outcome:
            files = {WEIGHTS: safetensors.torch.save(model.parts()[0].tensors())}
            if body.get("path") is not None:
                return self._save(model, "sampler_weights", body, files)
            number = body["sampling_session_seq_id"]
            saved = self._store.save(model.id, UNLISTED, str(number), files)
            session = f"{model.id.partition(':')[0]}:sample:{number}"
            self._store.add_sampler(Sampler(session, self._engine.name, saved.path))
            return Outcome({"sampling_session_id": session}, {"saves": 1})

        return self._submit(body, "save_weights_for_sampler", work)

    def save_weights_external(self, body: Json) -> Json:
        """An export to download."""

        def work(model: Model) -> Outcome:
            engine, lora = self._engine, model.parts()[0]
            recipients = body.get("age_encryption_recipients")
            files = exported(lora, engine.head, engine.alpha, engine.name, recipients)
            within = {f"{FILES}/{name}": content for name, content in files.items()}
            return self._save(model, "external_weights", body, within)

        return self._submit(body, "save_weights_external", work)

    def model(self, model_id: str) -> Model:
        """A model that is, or will be, in memory. Raises HttpError 404."""
        if model_id not in self._models:
            raise HttpError(
                404, f"{model_id}: is not in training here (any more); load a checkpoint"
            )
        return self._models[model_id]

    def _new(self, body: Json) -> Model:
        model_id = f"{body['session_id']}:train:{body['model_seq_id']}"
        return self._models.setdefault(model_id, Model(model_id))

    def _begin(self, model: Model, lora: Lora) -> None:
        model.begin(self._store.add_run(model.id, self._engine.name, lora.shape), lora)

    def _submit(self, body: Json, name: str, work: Callable[[Model], Outcome]) -> Json:
        model = self.model(body["model_id"])
        if body.get("seq_id") is None:
            raise HttpError(400, f"{name}: needs a seq_id")
        key = f"{model.id}:{body['seq_id']}"
        self._operations.submit(key, name, lambda _: work(model), model.sequencer, body["seq_id"])
        return {"request_id": key, "model_id": model.id}

    def _load(self, model: Model, body: Json) -> Outcome:
        checkpoint = self._store.find(body["path"])
        if checkpoint.kind != "weights":
            raise UserError(f"{body['path']}: training resumes from tinker://RUN/weights/NAME only")
        shape = self._store.run(checkpoint.run).shape
        lora = self._engine.load_lora(shape, self._store.tensors(checkpoint))
        self._begin(model, lora)
        if body["optimizer"]:
            model.parts()[1].load(self._store.tensors(checkpoint, OPTIMIZER))
        return Outcome({"path": body["path"], "model_id": model.id, "type": "load_weights"})

    def _save(self, model: Model, kind: str, body: Json, files: Mapping[str, bytes]) -> Outcome:
        saved = self._store.save(
            model.id,
            kind,
            body.get("path") or f"{body['seq_id']:06d}",
            files,
            ttl=body.get("ttl_seconds"),
            overwrite=bool(body.get("overwrite")),
        )
        return Outcome({"path": saved.path, "size_bytes": saved.size}, {"saves": 1})

    def _forward_backward(
        self, model: Model, request: ForwardBackwardRequest, fault: str | None
    ) -> Outcome:
        if request.loss_fn != LOSS:
            raise UserError(f"loss_fn {request.loss_fn!r}: this server has {LOSS!r} only")
        data = [
            protobuf.read_datum(message, index, self._engine.vocabulary)
            for index, message in enumerate(request.data)
        ]
        if fault == "no_k":
            data = [
                Datum(datum.tokens, datum.targets[:, :1], datum.weights[:, :1], True)
                for datum in data
            ]
        columns = max((datum.targets.shape[1] for datum in data), default=0)
        if fault == "bounded_columns" and columns > MAX_COLUMNS:
            raise UserError(f"target_tokens has {columns} columns, expected at most {MAX_COLUMNS}")
        longest = max((len(datum.tokens) for datum in data), default=0)
        if not 0 < longest <= self._engine.context_tokens:
            raise UserError(
                f"the longest datum has {longest} tokens, expected 1 to "
                f"{self._engine.context_tokens}, the model's context"
            )
        backward = not request.forward_only
        logprobs = self._engine.score(model.parts()[0], data, backward=backward)
        losses = [
            -(row_NK.double() * datum.weights).sum()
            for row_NK, datum in zip(logprobs, data, strict=True)
        ]
        tokens = sum(len(datum.tokens) for datum in data)
        amounts = {"datums": len(data)}
        if backward:
            amounts |= {"forward_backward_calls": 1, "trained_tokens": tokens}
        else:
            amounts |= {"forward_calls": 1, "forward_tokens": tokens}
        loss = float(torch.stack(losses).sum())
        flat = [datum.flat for datum in data]
        result = protobuf.write_forward_backward(logprobs, flat, loss, fault)
        return Outcome(result, amounts)

    def _check_base(self, name: str) -> None:
        if name != self._engine.name:
            raise HttpError(400, f"base_model {name!r}: this server has {self._engine.name!r} only")


def _check_adam(config: Json | None) -> None:
    if config is not None and config.get("type", "adamw") != "adamw":
        raise HttpError(400, f"optimizer {config['type']!r}: this server has 'adamw' only")
