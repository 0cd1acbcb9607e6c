"""TRL's trainers on the same task: SDFT, tuned and by its defaults, and plain SFT.

Both run in an environment of their own, which has TRL.
"""

from __future__ import annotations

from typing import Any

import datasets
import torch
import transformers
from torch import Tensor
from transformers import TrainerCallback
from trl import SFTConfig, SFTTrainer
from trl.experimental.sdft import SDFTConfig, SDFTTrainer

from local_bench import ours, plain
from local_bench.clock import Recorder
from local_bench.records import Ended, Job, Outcome, Task
from promptbake.dataset.alignment import align_all
from promptbake.errors import BakeError
from promptbake.runs.generation import load_dataset

EVAL_EVERY = 3  # steps
DEFAULTS_BATCH = 8
MOST_STEPS = 2000  # of SDFT, which ends earlier: at the target or at the limit
TUNED: dict[str, Any] = {
    # Forward KL over the whole vocabulary on the teacher's responses, as promptbake's objective;
    # all responses of an epoch are generated at once and used twice.
    "generate_from_teacher": True,
    "distillation_alpha": 0.0,
    "distillation_mode": "full_logits",
    "num_iterations": 2,
}


class Measurements(TrainerCallback):  # type: ignore[misc]
    """Measures the curve while a trainer of TRL trains, and ends it."""

    def __init__(self, recorder: Recorder) -> None:
        self._recorder = recorder
        self.ended: Ended = "finished"

    def on_step_end(self, args: Any, state: Any, control: Any, **more: Any) -> None:
        """Measure every few steps, and at the end."""
        step = state.global_step
        due = step % EVAL_EVERY == 0 or step >= state.max_steps
        if due:
            self._recorder.measure(step)
        if stop := self._recorder.stop:
            if not due:
                self._recorder.measure(step)
            self.ended = stop
            control.should_training_stop = True


def run_sdft(job: Job, task: Task) -> Outcome:
    """Self-distillation from the prompted model, until enough of the gap is closed."""
    tokenizer = _tokenizer(task)
    model = plain.load_model(task)
    held_out = plain.HeldOut(model, task)
    queries = {request.student: request.teacher for request in task.requests}
    rows = [
        {"prompt": _text(tokenizer, student), "privileged_context": _text(tokenizer, teacher)}
        for student, teacher in queries.items()
    ]
    trainer = TimedSDFT(
        model=model,
        args=_sdft_config(job, task, len(rows)),
        train_dataset=datasets.Dataset.from_list(rows),
        processing_class=tokenizer,
        peft_config=plain.lora_config(task),
    )
    recorder = Recorder(job, task, lambda: held_out.kl(trainer.model))
    trainer.recorder = recorder
    ending = Measurements(recorder)
    trainer.add_callback(ending)
    recorder.start()
    trainer.train()
    seconds = recorder.clock.seconds
    others = recorder.busy_seconds
    recorder.count("training", trainer.trained_tokens, seconds - others)
    return recorder.outcome(seconds, ending.ended)


def run_sft(job: Job, task: Task) -> Outcome:
    """Plain fine-tuning on the responses that promptbake's data stage samples."""
    sampled = ours.sample(job, task, job.shared / "sft")
    datums = align_all(
        load_dataset(sampled.session).training, sampled.session.targets, sampled.session.base
    )
    sampling_seconds, sampling_tokens = sampled.seconds, sampled.tokens
    del sampled  # and its model
    rows = [
        {
            "input_ids": list(each.student_ids),
            "completion_mask": [0] * (len(each.student_ids) - each.n_response)
            + [1] * each.n_response,
        }
        for each in datums
    ]
    model = plain.load_model(task)
    held_out = plain.HeldOut(model, task)
    trainer = SFTTrainer(
        model=model,
        args=_sft_config(job, task),
        train_dataset=datasets.Dataset.from_list(rows),
        processing_class=_tokenizer(task),
        peft_config=plain.lora_config(task),
    )
    recorder = Recorder(job, task, lambda: held_out.kl(trainer.model))
    ending = Measurements(recorder)
    trainer.add_callback(ending)
    recorder.start(sampling_seconds)
    recorder.count("sampling", sampling_tokens, sampling_seconds)
    recorder.begin_training()
    trainer.train()
    seconds = recorder.clock.seconds
    # Each epoch trains on all responses; the last may be cut short.
    tokens = round(sampling_tokens * trainer.state.epoch)
    recorder.count("training", tokens, seconds - sampling_seconds)
    return recorder.outcome(seconds, ending.ended)


class TimedSDFT(SDFTTrainer):  # type: ignore[misc]
    """TRL's trainer; its recorder is told how long generation and the teacher's pass take."""

    recorder: Recorder
    trained_tokens = 0

    def _generate(self, prompt_ids: list[list[int]]) -> Any:
        began = self.recorder.clock.seconds
        found = super()._generate(prompt_ids)
        tokens = sum(map(len, found[1]))
        self.recorder.count("sampling", tokens, self.recorder.clock.seconds - began)
        return found

    def _forward_logits(
        self, model: Any, input_ids: Tensor, attention_mask: Tensor, logits_to_keep: int
    ) -> Any:
        given = (model, input_ids, attention_mask, logits_to_keep)
        if torch.is_grad_enabled():
            return super()._forward_logits(*given)
        tokens = int(attention_mask[:, -logits_to_keep:].sum())
        with self.recorder.timed("teacher", tokens):
            return super()._forward_logits(*given)

    def compute_loss(self, model: Any, inputs: Any, *given: Any, **more: Any) -> Any:
        """Count the response tokens that are trained on; before the first, nothing is trained."""
        if not self.trained_tokens:
            self.recorder.begin_training()
        self.trained_tokens += int(inputs["completion_mask"].sum())
        return super().compute_loss(model, inputs, *given, **more)


def _common(job: Job, task: Task) -> dict[str, Any]:
    """Settings of TRL's trainers: the task's, and those that a CPU is fastest with."""
    return {
        "output_dir": str(job.shared / f"{job.contestant}-trainer"),
        "seed": job.seed,
        "per_device_train_batch_size": task.batch_size,
        "learning_rate": task.lr,
        "adam_beta1": plain.BETAS[0],
        "adam_beta2": plain.BETAS[1],
        "weight_decay": 0.0,
        "max_grad_norm": plain.MAX_GRAD_NORM,
        "use_cpu": True,
        "bf16": False,
        "gradient_checkpointing": False,
        "dataloader_pin_memory": False,
        "disable_tqdm": True,
        "report_to": "none",
        "save_strategy": "no",
        "logging_strategy": "no",
    }


def _sdft_config(job: Job, task: Task, queries: int) -> Any:
    settings = _common(job, task)
    if job.contestant == "sdft":
        per_query = max(1, len(task.requests) // queries)
        steps = max(1, queries * per_query // task.batch_size)
        settings |= TUNED | {"num_generations": per_query, "steps_per_generation": steps}
    else:
        settings |= {"per_device_train_batch_size": DEFAULTS_BATCH}
    config = SDFTConfig(
        **settings,
        lr_scheduler_type="constant",
        max_steps=MOST_STEPS,
        max_prompt_length=None,
        max_completion_length=task.max_tokens,
    )
    # The privileged context is the whole prompted rendering; the check in SDFTConfig wants both.
    config.teacher_prompt_template = "{privileged_context}"
    return config


def _sft_config(job: Job, task: Task) -> Any:
    return SFTConfig(
        **_common(job, task),
        lr_scheduler_type="linear",
        num_train_epochs=task.epochs,
        max_length=None,
        packing=False,
        completion_only_loss=True,
    )


def _tokenizer(task: Task) -> Any:
    return transformers.AutoTokenizer.from_pretrained(task.model, trust_remote_code=False)


def _text(tokenizer: Any, ids: tuple[int, ...]) -> str:
    """The text of a rendering; it must encode to the same tokens."""
    text: str = tokenizer.decode(list(ids), skip_special_tokens=False)
    if tuple(tokenizer(text)["input_ids"]) != ids:
        raise BakeError(f"{text[-80:]!r}: a rendered query does not encode to its own tokens")
    return text
