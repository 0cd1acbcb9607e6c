"""Between the SDK's messages, protobuf and JSON, and what the engine works with."""

from __future__ import annotations

import secrets
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np
import torch
from google.protobuf.message import DecodeError  # type: ignore[import-untyped]  # no stubs
from tinker.proto import tinker_public_pb2 as pb
from torch import Tensor

from promptbake_loopback.errors import HttpError, UserError
from promptbake_loopback.tinker.decoding import Cells, SampleRequest, SampleResult, TopK
from promptbake_loopback.tinker.engine import Datum

MAX_SEED = 2**31
NUMPY = {pb.DTYPE_FLOAT32: np.float32, pb.DTYPE_INT64: np.int64}


def read_forward_backward(body: bytes) -> pb.ForwardBackwardRequest:
    """The one request that comes as protobuf."""
    request = pb.ForwardBackwardRequest()
    try:
        request.ParseFromString(body)
    except DecodeError as error:
        raise HttpError(400, f"forward_backward: the body is no protobuf: {error}") from None
    return request


def read_datum(message: pb.Datum, index: int, vocabulary: int) -> Datum:
    """A datum for cross_entropy; weights that are not given are 1. Raises UserError."""
    where = f"datum {index}"
    tokens: list[int] = []
    for chunk in message.model_input:
        if not chunk.HasField("encoded_text"):
            raise UserError(f"{where}: this server reads text only")
        tokens += np.frombuffer(chunk.encoded_text.tokens, np.int32).tolist()
    if "target_tokens" not in message.loss_fn_inputs:
        raise UserError(f"{where}: cross_entropy needs target_tokens")
    if unknown := set(message.loss_fn_inputs) - {"target_tokens", "weights"}:
        raise UserError(f"{where}: cross_entropy does not take {sorted(unknown)}")
    targets = _read_tensor(message.loss_fn_inputs["target_tokens"])
    weights = torch.ones(targets.shape)
    if "weights" in message.loss_fn_inputs:
        weights = _read_tensor(message.loss_fn_inputs["weights"]).float()
    if targets.dim() not in (1, 2) or len(targets) != len(tokens) or not tokens:
        raise UserError(
            f"{where}: target_tokens is {list(targets.shape)}, expected (N,) or (N, K) for a "
            f"model_input of N = {len(tokens)} > 0 tokens"
        )
    if weights.shape != targets.shape:
        raise UserError(
            f"{where}: weights is {list(weights.shape)}, expected {list(targets.shape)}"
        )
    check_ids(where, tokens, vocabulary)
    check_ids(f"{where}: target_tokens", targets.flatten().tolist(), vocabulary)
    flat = targets.dim() == 1
    return Datum(
        tuple(tokens),
        targets.long().reshape(len(tokens), -1),
        weights.reshape(len(tokens), -1),
        flat,
    )


def write_forward_backward(
    logprobs: Iterable[Tensor], flat: Iterable[bool], loss: float, fault: str | None
) -> bytes:
    """Log-probabilities by datum; one record for each run of datums with the same K."""
    message = pb.ForwardBackwardOutput(loss_fn_output_type="ArrayRecord")
    message.metrics["loss:sum"] = loss
    runs: list[tuple[list[int], list[Tensor]]] = []
    for row_NK, is_flat in zip(logprobs, flat, strict=True):
        trailing = [] if is_flat else [row_NK.shape[1]]
        if not runs or runs[-1][0] != trailing:
            runs.append((trailing, []))
        runs[-1][1].append(row_NK)
    for trailing, rows in runs:
        record = message.loss_fn_outputs.add(type_tag="ArrayRecord", num_datums=len(rows))
        if fault == "no_logprobs":
            continue
        values = [_bytes(row, np.float32) for row in rows]
        offsets = np.cumsum([0, *map(len, values)], dtype=np.int64)
        record.fields["logprobs"].CopyFrom(
            pb.BatchedTensor(
                data=b"".join(values),
                offsets=offsets.tobytes(),
                dtype=pb.DTYPE_FLOAT32,
                trailing_shape=trailing,
            )
        )
    return bytes(message.SerializeToString())


def read_sample_request(
    body: Mapping[str, Any], context_tokens: int, vocabulary: int
) -> SampleRequest:
    """A sample request. Raises HttpError 400 for what the service would refuse."""
    params = body.get("sampling_params") or {}
    prompt = _read_prompt(body["prompt"])
    if params.get("top_k", -1) != -1 or params.get("top_p", 1.0) != 1.0:
        raise HttpError(400, "this server samples from the whole distribution: no top_k, top_p")
    if body.get("topk_sample_logprobs") or body.get("num_samples", 1) != 1:
        raise HttpError(400, "this server gives one sample a request, and no topk_sample_logprobs")
    stop = params.get("stop")
    if not all(isinstance(token, int) for token in stop or ()):
        raise HttpError(400, f"stop: this server stops at token ids only, found {stop!r}")
    left = context_tokens - len(prompt)
    max_tokens = left if params.get("max_tokens") is None else int(params["max_tokens"])
    if not prompt or max_tokens < 1 or max_tokens > left:
        raise HttpError(
            400,
            f"a prompt of {len(prompt)} tokens and max_tokens = {max_tokens} do not fit: both are "
            f"at least 1 and at most {context_tokens} together",
        )
    try:
        check_ids("prompt", prompt, vocabulary)
    except UserError as error:
        raise HttpError(400, str(error)) from None
    seed = params.get("seed")
    if seed is not None and not 0 <= seed < MAX_SEED:
        raise HttpError(400, f"sampling_params.seed: found {seed}, expected 0 to {MAX_SEED - 1}")
    request = SampleRequest(
        prompt=prompt,
        max_tokens=max_tokens,
        temperature=float(params.get("temperature", 1.0)),
        seed=secrets.randbelow(2**62) if seed is None else int(seed),
        stop=None if stop is None else tuple(stop),
        prompt_logprobs=bool(body.get("prompt_logprobs")),
        last_n=body.get("prompt_logprobs_last_n"),
        topk_prompt=int(body.get("topk_prompt_logprobs", 0)),
        cells=_read_cells(body.get("target_prompt_logprobs"), len(prompt), vocabulary),
        alternatives=int(body.get("prompt_alt_tokens_k", 0)),
    )
    _check_sample_request(request)
    return request


def write_sample_result(
    result: SampleResult, body: Mapping[str, Any], hit_tokens: int, fault: str | None
) -> bytes:
    """A SampleResponse; `fault` names the fault that befalls it."""
    end = -1 if fault == "short" else None
    message = pb.SampleResponse(prompt_cache_hit_tokens=hit_tokens)
    sequence = result.sequence
    message.sequences.add(
        stop_reason=pb.STOP_REASON_STOP if sequence.stopped else pb.STOP_REASON_LENGTH,
        tokens=np.asarray(sequence.tokens, np.int32).tobytes(),
        logprobs=np.asarray(sequence.logprobs, np.float32).tobytes(),
    )
    if result.prompt_logprobs is not None:
        message.prompt_logprobs = _bytes(result.prompt_logprobs[:end], np.float32)
    if result.topk_prompt is not None and fault != "no_topk":
        table = result.topk_prompt
        message.topk_prompt_logprobs.CopyFrom(_topk(TopK(table.ids[:end], table.logprobs[:end])))
    if result.cells is not None:
        message.target_prompt_logprobs.CopyFrom(
            _cells(result.cells, body["target_prompt_logprobs"])
        )
    if result.alternatives is not None and fault != "no_alt":
        drawn = message.prompt_alt_tokens
        drawn.tokens.CopyFrom(_dense(result.alternatives.ids, np.int32, pb.DTYPE_INT32))
        drawn.logprobs.CopyFrom(_dense(result.alternatives.logprobs, np.float32, pb.DTYPE_FLOAT32))
    return bytes(message.SerializeToString())


def check_ids(where: str, ids: Sequence[int], vocabulary: int) -> None:
    """Raise UserError for a token that the model does not have."""
    unknown = next((token for token in ids if not 0 <= token < vocabulary), None)
    if unknown is not None:
        raise UserError(f"{where}: token {unknown} is not in the vocabulary of {vocabulary}")


def _read_tensor(message: pb.Tensor) -> Tensor:
    kind = NUMPY.get(message.dtype)
    if kind is None:
        raise UserError(f"a tensor of dtype {message.dtype}: expected float32 or int64")
    if not message.HasField("sparse_csr"):
        return torch.from_numpy(np.frombuffer(message.dense, kind).copy()).reshape(
            list(message.shape) or [-1]
        )
    csr = message.sparse_csr
    dense = torch.zeros(list(message.shape), dtype=torch.from_numpy(np.empty(0, kind)).dtype)
    crow = np.frombuffer(csr.crow_indices, np.int64)
    rows = torch.from_numpy(np.repeat(np.arange(len(crow) - 1), np.diff(crow)))
    columns = torch.from_numpy(np.frombuffer(csr.col_indices, np.int64).copy())
    dense[rows, columns] = torch.from_numpy(np.frombuffer(csr.values, kind).copy())
    return dense


def _read_prompt(body: Mapping[str, Any]) -> tuple[int, ...]:
    tokens: list[int] = []
    for chunk in body["chunks"]:
        if "tokens" not in chunk:
            raise HttpError(400, "this server reads text only")
        tokens += chunk["tokens"]
    return tuple(tokens)


def _read_cells(body: Mapping[str, Any] | None, length: int, vocabulary: int) -> Cells | None:
    if body is None:
        return None
    shape = body.get("shape")
    if shape is None or len(shape) != 2 or shape[0] != length - 1:
        raise HttpError(
            400, f"target_prompt_logprobs: found shape {shape}, expected [{length - 1}, K]"
        )
    ids = torch.tensor(body["data"], dtype=torch.long)
    if (crow := body.get("sparse_crow_indices")) is not None:
        rows = torch.from_numpy(np.repeat(np.arange(length - 1), np.diff(crow)))
    else:  # as the SDK sends what is not smaller when it is sparse
        rows = torch.arange(length - 1).repeat_interleave(shape[1])
    if len(ids) != len(rows) or not (ids >= 0).any() or (ids >= vocabulary).any():
        raise HttpError(400, "target_prompt_logprobs: ids are of the vocabulary, and at least one")
    return Cells(rows, ids)


def _check_sample_request(request: SampleRequest) -> None:
    length = len(request.prompt)
    if request.last_n is not None and not (
        request.prompt_logprobs and 1 <= request.last_n <= length - 1
    ):
        raise HttpError(
            400, f"prompt_logprobs_last_n is 1 to {length - 1} and goes with prompt_logprobs"
        )
    if request.topk_prompt > 20 and request.max_tokens * request.topk_prompt > 1000:
        raise HttpError(400, "topk_prompt_logprobs must be <= 20, or max_tokens times it <= 1000")


def _cells(values: Tensor, body: Mapping[str, Any]) -> pb.Tensor:
    """In the layout of the request."""
    message = pb.Tensor(dtype=pb.DTYPE_FLOAT32, shape=body["shape"])
    if body.get("sparse_crow_indices") is None:
        message.dense = _bytes(values, np.float32)
        return message
    message.sparse_csr.values = _bytes(values, np.float32)
    for name in ("crow_indices", "col_indices"):
        setattr(message.sparse_csr, name, np.asarray(body[f"sparse_{name}"], np.int64).tobytes())
    return message


def _dense(values: Tensor, kind: Any, dtype: Any) -> pb.Tensor:
    return pb.Tensor(dense=_bytes(values, kind), dtype=dtype, shape=list(values.shape))


def _topk(table: TopK) -> pb.TopkLogprobs:
    length, k = table.ids.shape
    return pb.TopkLogprobs(
        token_ids=_bytes(table.ids, np.int32),
        logprobs=_bytes(table.logprobs, np.float32),
        k=k,
        length=length,
    )


def _bytes(values: Tensor, kind: Any) -> bytes:
    array = values.numpy().astype(kind)
    return bytes(array.tobytes())
