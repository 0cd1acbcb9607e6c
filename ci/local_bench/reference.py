"""The reference recipe by transformers and peft: K datums a conversation, the tail dropped.

The teacher is asked again in each epoch. As ci/bench_tinker.py states it for Tinker; here each
datum takes one pass in place of two.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import peft
import torch
from torch import Tensor

from local_bench import plain
from local_bench.clock import Recorder
from local_bench.plain import Response
from local_bench.records import Ended, Job, Outcome, Task
from promptbake.distill.schedule import Schedule

EPOCHS = 4
EVAL_EVERY = 2  # steps


def run(job: Job, task: Task) -> Outcome:
    """Generate, then train until enough of the gap is closed, the epochs are over, or the limit."""
    base = plain.load_model(task)
    held_out = plain.HeldOut(base, task)
    torch.manual_seed(job.seed)
    model = peft.get_peft_model(base, plain.lora_config(task))
    recorder = Recorder(job, task, lambda: held_out.kl(model))
    recorder.start()
    began = recorder.clock.seconds
    with model.disable_adapter():
        responses = plain.generate(model, task, job.seed)
    tokens = sum(len(response.tokens) for response in responses)
    recorder.count("sampling", tokens, recorder.clock.seconds - began)
    recorder.begin_training()
    ended = _train(model, task, responses, recorder, job.seed)
    return recorder.outcome(recorder.clock.seconds, ended)


def _train(
    model: Any, task: Task, responses: Sequence[Response], recorder: Recorder, seed: int
) -> Ended:
    weights = [each for each in model.parameters() if each.requires_grad]
    optimizer = torch.optim.AdamW(weights, lr=0.0, betas=plain.BETAS, weight_decay=0.0)
    schedule = Schedule(len(responses), task.batch_size, EPOCHS, task.lr, seed)
    for step in range(schedule.steps):
        batch = [responses[index] for index in schedule.batch(step)]
        tokens = sum(len(response.tokens) for response in batch)
        with recorder.timed("teacher", tokens):
            top_k = ask_teacher(model, batch, task.top_k)
        with recorder.timed("training", tokens):
            for response, (ids_NK, logprobs_NK) in zip(batch, top_k, strict=True):
                loss = kl_over_k_datums(model, response, ids_NK, logprobs_NK) / tokens
                loss.backward()  # type: ignore[no-untyped-call]
            torch.nn.utils.clip_grad_norm_(weights, plain.MAX_GRAD_NORM)
            for group in optimizer.param_groups:
                group["lr"] = schedule.learning_rate(step)
            optimizer.step()
            optimizer.zero_grad(set_to_none=True)
        if (step + 1) % EVAL_EVERY == 0 or step + 1 == schedule.steps:
            recorder.measure(step + 1)
        if stop := recorder.stop:
            if (step + 1) % EVAL_EVERY:
                recorder.measure(step + 1)
            return stop
    return "finished"


def ask_teacher(model: Any, batch: Sequence[Response], k: int) -> list[tuple[Tensor, Tensor]]:
    """Ids and log-probabilities [N, K] of the prompted base model's top K for each response."""
    longest = max(len(response.tokens) for response in batch)
    with torch.inference_mode(), model.disable_adapter():
        rows = [response.teacher + response.tokens for response in batch]
        logprobs = plain.response_logits(model, rows, longest).log_softmax(-1)
        values, ids = logprobs.topk(min(k, logprobs.shape[-1]), dim=-1)
    return [
        (ids[row, -len(response.tokens) :].clone(), values[row, -len(response.tokens) :].clone())
        for row, response in enumerate(batch)
    ]


def kl_over_k_datums(model: Any, response: Response, ids_NK: Tensor, logprobs_NK: Tensor) -> Tensor:
    """The sum of p (log p - log q), nats, with a row of the batch for each of the K tokens."""
    n, k = ids_NK.shape
    rows = [response.student + response.tokens] * k
    q_KNV = plain.response_logits(model, rows, n).log_softmax(-1)
    q_KN = q_KNV.gather(2, ids_NK.T.unsqueeze(2)).squeeze(2)
    return (logprobs_NK.exp() * (logprobs_NK - q_KN.T)).sum()
