"""The endpoints of the REST client: models, checkpoints, downloads."""

from __future__ import annotations

import secrets
from collections.abc import Callable, Mapping
from datetime import UTC, datetime
from typing import Any

from promptbake_loopback.errors import HttpError, UserError
from promptbake_loopback.tinker.checkpoints import FILES, Checkpoint, Store
from promptbake_loopback.tinker.engine import Engine

Json = Mapping[str, Any]
URL_LIFE = 3600  # seconds


class Catalogue:
    """Each method takes a request's JSON and the parameters of its path, and gives JSON.

    `url` gives the server's own, for the addresses of downloads; `tokenizer` is what transformers
    finds the model's tokenizer by.
    """

    def __init__(
        self,
        engine: Engine,
        store: Store,
        url: Callable[[], str],
        tokenizer: str,
        clock: Callable[[], float],
    ) -> None:
        self._engine = engine
        self._store = store
        self._url = url
        self._tokenizer = tokenizer
        self._clock = clock
        self._secret = secrets.token_urlsafe(16)  # stands for the signature of a signed URL

    def capabilities(self, _: Json) -> Json:
        """The one model that is served."""
        model = {
            "model_name": self._engine.name,
            "max_context_length": self._engine.context_tokens,
            "trainable": True,
            "sampleable": True,
        }
        return {"supported_models": [model]}

    def info(self, body: Json) -> Json:
        """What a training client wants to know of its model."""
        run = self._store.run(body["model_id"])
        return {
            "type": "get_info",
            "model_data": {"model_name": run.base_model, "tokenizer_id": self._tokenizer},
            "model_id": run.id,
            "is_lora": True,
            "lora_rank": run.shape.rank,
            "model_name": run.base_model,
        }

    def weights_info(self, body: Json) -> Json:
        """What it takes to load a checkpoint."""
        run = self._store.run(self._find(body["tinker_path"]).run)
        shape = run.shape
        return {
            "base_model": run.base_model,
            "is_lora": True,
            "lora_rank": shape.rank,
            "train_unembed": shape.unembed,
            "train_mlp": shape.mlp,
            "train_attn": shape.attn,
        }

    def delete(self, _: Json, run: str, kind: str, name: str) -> None:
        """Delete a checkpoint."""
        self._store.delete(self._find(f"tinker://{run}/{kind}/{name}"))

    def set_ttl(self, body: Json, run: str, kind: str, name: str) -> None:
        """Change when a checkpoint expires."""
        try:
            self._store.set_ttl(
                self._find(f"tinker://{run}/{kind}/{name}"), body.get("ttl_seconds")
            )
        except UserError as error:
            raise HttpError(400, str(error)) from None

    def urls(self, _: Json, run: str, kind: str, name: str) -> Json:
        """Where an export's files are, for an hour."""
        found = self._find(f"tinker://{run}/{kind}/{name}")
        base = f"{self._url()}/loopback/files/{self._secret}/{run}/{name}"
        return {
            "urls": {file: f"{base}/{file}" for file in self._store.files(found)},
            "expires": datetime.fromtimestamp(self._clock() + URL_LIFE, UTC).isoformat(),
        }

    def download(self, secret: str, run: str, name: str, file: str) -> bytes:
        """One of an export's files."""
        if not secrets.compare_digest(secret, self._secret):
            raise HttpError(403, "the address was not given by this server")
        found = self._find(f"tinker://{run}/external_weights/{name}")
        if file not in self._store.files(found):
            raise HttpError(404, f"the export has no {file}")
        return self._store.read(found, f"{FILES}/{file}")

    def sampler(self, _: Json, sampler_id: str) -> Json:
        """What a sampling session samples from."""
        sampler = self._store.sampler(sampler_id)
        return {
            "sampler_id": sampler.id,
            "base_model": sampler.base_model,
            "model_path": sampler.model_path,
        }

    def _find(self, path: str) -> Checkpoint:
        try:
            return self._store.find(path)
        except UserError as error:
            raise HttpError(404, str(error)) from None
