"""The task by transformers and peft alone: the model, its LoRA, generation, and the held-out KL."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import peft
import torch
import transformers
from torch import Tensor

from local_bench.records import Request, Task
from promptbake.distill.objective import full_kl

BETAS = (0.9, 0.99)
MAX_GRAD_NORM = 1.0
SAMPLE_BATCH = 64  # responses sampled at a time, as by promptbake


@dataclass(frozen=True)
class Response:
    """A sampled response: the request's token ids without and with the prompt, and its own."""

    student: tuple[int, ...]
    teacher: tuple[int, ...]
    tokens: tuple[int, ...]


def load_model(task: Task) -> Any:
    """The base model in float32 on the CPU."""
    transformers.logging.set_verbosity_error()
    transformers.logging.disable_progress_bar()
    torch.set_flush_denormal(True)
    model = transformers.AutoModelForCausalLM.from_pretrained(
        task.model, dtype=torch.float32, trust_remote_code=False
    )
    model.requires_grad_(False)
    return model.eval()


def lora_config(task: Task) -> peft.LoraConfig:
    """A LoRA on all linear layers."""
    return peft.LoraConfig(
        task_type="CAUSAL_LM", r=task.rank, lora_alpha=task.alpha, target_modules="all-linear"
    )


def padded(rows: Sequence[Sequence[int]]) -> dict[str, Tensor]:
    """Token ids, mask and positions [B, T], padded on the left."""
    longest = max(map(len, rows))
    ids = torch.zeros(len(rows), longest, dtype=torch.long)
    mask = torch.zeros_like(ids)
    for number, row in enumerate(rows):
        ids[number, longest - len(row) :] = torch.tensor(row)
        mask[number, longest - len(row) :] = 1
    positions = (mask.cumsum(1) - 1).clamp(min=0)
    return {"input_ids": ids, "attention_mask": mask, "position_ids": positions}


def response_logits(model: Any, rows: Sequence[Sequence[int]], n_last: int) -> Tensor:
    """Logits [B, n_last, V] that predict the last `n_last` tokens of each row."""
    arguments = padded(rows)
    output = model(**arguments, use_cache=False, logits_to_keep=n_last + 1)
    logits: Tensor = output.logits[:, -n_last - 1 : -1]
    return logits


class HeldOut:
    """KL(prompted || student) over the whole vocabulary at the task's held-out responses.

    The prompted model's log-probabilities are computed once, when the model is still untrained.
    """

    def __init__(self, model: Any, task: Task) -> None:
        self._rows = task.held_out
        with torch.inference_mode():
            self._teacher = [_logprobs(model, row.teacher, row.n_response) for row in task.held_out]

    def kl(self, model: Any) -> float:
        """Nats a response token."""
        was_training = model.training
        model.eval()
        nats = 0.0
        with torch.inference_mode():
            for row, teacher in zip(self._rows, self._teacher, strict=True):
                student = _logprobs(model, row.student, row.n_response)
                nats += float(full_kl(teacher, student).sum())
        model.train(was_training)
        return nats / sum(row.n_response for row in self._rows)


def _logprobs(model: Any, row: Sequence[int], n_response: int) -> Tensor:
    return response_logits(model, [row], n_response)[0].float().log_softmax(1)


def generate(model: Any, task: Task, seed: int) -> list[Response]:
    """Sample all requests by `model.generate`, in batches of one temperature."""
    torch.manual_seed(seed)
    by_temperature: dict[float, list[Request]] = {}
    for request in task.requests:
        by_temperature.setdefault(request.temperature, []).append(request)
    found: list[Response] = []
    for temperature, requests in by_temperature.items():
        for start in range(0, len(requests), SAMPLE_BATCH):
            found += _generate(model, task, requests[start : start + SAMPLE_BATCH], temperature)
    return found


def _generate(
    model: Any, task: Task, requests: Sequence[Request], temperature: float
) -> list[Response]:
    given = padded([request.teacher for request in requests])
    sampled = model.generate(
        input_ids=given["input_ids"],
        attention_mask=given["attention_mask"],
        max_new_tokens=task.max_tokens,
        do_sample=True,
        temperature=temperature,
        top_k=0,
        top_p=1.0,
        eos_token_id=list(task.stop_ids),
        pad_token_id=task.stop_ids[0],
    )
    responses = []
    for request, row in zip(requests, sampled[:, given["input_ids"].shape[1] :], strict=True):
        tokens = row.tolist()
        ends = [at for at, token in enumerate(tokens) if token in task.stop_ids]
        cut = tuple(tokens[: ends[0] + 1] if ends else tokens)
        responses.append(Response(request.student, request.teacher, cut))
    return responses
