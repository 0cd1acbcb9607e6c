"""The sampling side of the service: sampling sessions and samples."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Mapping
from typing import Any

from promptbake_loopback.errors import HttpError, UserError
from promptbake_loopback.tinker import protobuf
from promptbake_loopback.tinker.checkpoints import Sampler, Store
from promptbake_loopback.tinker.decoding import SampleRequest, sample
from promptbake_loopback.tinker.engine import Engine
from promptbake_loopback.tinker.faults import BOUNDING, MAX_IDS
from promptbake_loopback.tinker.lora import Lora
from promptbake_loopback.tinker.operations import Operations, Outcome
from promptbake_loopback.tinker.prefixes import Prefixes

Json = Mapping[str, Any]
MAX_LOADED = 4  # LoRAs kept in memory for sampling
BASE = "base"


class Sampling:
    """Accepts requests, and executes them through `operations`."""

    def __init__(self, engine: Engine, store: Store, operations: Operations) -> None:
        self._engine = engine
        self._store = store
        self._operations = operations
        self._loaded: OrderedDict[str, Lora] = OrderedDict()
        self._prefixes = Prefixes()

    def create_session(self, body: Json) -> Json:
        """A sampling session on a checkpoint or on the base model."""
        path, base = body.get("model_path"), body.get("base_model")
        if base is not None and base != self._engine.name:
            raise HttpError(400, f"base_model {base!r}: this server has {self._engine.name!r} only")
        if path is None and base is None:
            raise HttpError(400, "create_sampling_session: needs a base_model or a model_path")
        if path is not None:
            try:
                if self._store.find(path).kind == "external_weights":
                    raise UserError(f"{path}: is for download only")
            except UserError as error:
                raise HttpError(404, str(error)) from None
        session = f"{body['session_id']}:sample:{body['sampling_session_seq_id']}"
        self._store.add_sampler(Sampler(session, self._engine.name, path))
        return {"type": "create_sampling_session", "sampling_session_id": session}

    def sample(self, body: Json) -> Json:
        """Samples, and scores of the prompt."""
        sampler = self._store.sampler(body.get("sampling_session_id") or "")
        if body.get("seq_id") is None:
            raise HttpError(400, "asample: needs a seq_id")
        key = f"{sampler.id}:{body['seq_id']}"
        request = protobuf.read_sample_request(
            body, self._engine.context_tokens, self._engine.vocabulary
        )

        if self._operations.faults.take(BOUNDING, "asample"):
            _check_ids(request)

        def work(fault: str | None) -> Outcome:
            return self._sample(sampler, request, body, fault)

        self._operations.submit(key, "asample", work)
        return {"request_id": key, "sample_sequence_ids": [f"{key}:0"]}

    def _sample(
        self, sampler: Sampler, request: SampleRequest, body: Json, fault: str | None
    ) -> Outcome:
        weights, lora = self._weights(sampler)
        hit = self._prefixes.hit(weights, request.prompt, request.cacheable)
        result = sample(self._engine, lora, request)
        amounts = {
            "sample_calls": 1,
            "prefill_tokens": len(request.prompt) - hit,
            "cached_prefill_tokens": hit,
            "sampled_tokens": len(result.sequence.tokens),
        }
        return Outcome(protobuf.write_sample_result(result, body, hit, fault), amounts)

    def _weights(self, sampler: Sampler) -> tuple[str, Lora | None]:
        """What the prefix cache knows the weights by, and the weights; None for the base's."""
        if sampler.model_path is None:
            return BASE, None
        checkpoint = self._store.find(sampler.model_path)
        if checkpoint.uid not in self._loaded:
            shape = self._store.run(checkpoint.run).shape
            lora = self._engine.load_lora(shape, self._store.tensors(checkpoint))
            self._loaded[checkpoint.uid] = lora
            while len(self._loaded) > MAX_LOADED:
                self._loaded.popitem(last=False)
        self._loaded.move_to_end(checkpoint.uid)
        return checkpoint.uid, self._loaded[checkpoint.uid]


def _check_ids(request: SampleRequest) -> None:
    """Raise HttpError 400 for more ids than a bounded service scores."""
    if request.cells is None:
        return
    ids = request.cells.ids
    cost = len(request.prompt) * len(set(ids[ids >= 0].tolist()))
    if cost > MAX_IDS:
        raise HttpError(
            400, f"target_prompt_logprobs: len(prompt) * distinct ids = {cost}, at most {MAX_IDS}"
        )
