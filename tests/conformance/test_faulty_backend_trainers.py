"""Faulty trainers of a backend: their LoRAs, losses, steps and states; and their adapters."""

from __future__ import annotations

from faulty_suites import suite_for
from toy_backend import LOADED, LOADS, ToySuite, backend, backend_suites

NATS = "objective.nats(scores.gather(1, example.support.ids), example.support).sum()"
UNWEIGHTED = NATS.replace("example.support)", "replace(example.support, weight=1.0))")
BACKWARD = "torch.autograd.backward(nats / count)"
BY_GRADIENT = (  # as an engine without torch's autograd would
    "student.scores(example.datum.student)",
    "student.scores(example.datum.student).gather(1, example.support.ids)",
    f"nats = {NATS}", "nats, gradient = objective.loss_and_gradient(scores, example.support)",
    BACKWARD, "scores.backward(gradient / count)", "nats.item()", "nats.sum().item()",
)  # fmt: skip
LOSSES = {
    "test_the_loss_is_the_mean_over_the_batchs_response_tokens": {
        "means_the_rows_means": (NATS, f"{NATS[:-6]}.mean() * count / len(batch)"),
        "sums": ("count = sum(example.datum.n_response for example in batch)", "count = 1"),
        "counts_the_prompts_tokens": (
            "sum(example.datum.n_response for", "sum(len(example.datum.student_ids) for"),
        "reads_the_teachers_prompt": ("example.datum.student)", "example.datum.teacher)"),
        "gives_a_tensor": ("Result(total / count)", "Result(torch.tensor(total / count))"),
        "takes_the_base_model_for_the_student": ("Result(self.student)", "Result(self.base)"),
        "remembers_the_first_student": (
            "return ImmediateResult(self.student)",
            "delta = self.student.delta().detach()\n"
            "        self.first = vars(self).get('first', self.base.with_lora(lambda: delta))\n"
            "        return ImmediateResult(self.first)"),
    },
    "test_training_lowers_the_loss": {
        "climbs": (BACKWARD, "(-nats / count).backward()"),
        "never_steps": ('group["lr"] = lr', 'group["lr"] = 0.0'),
    },
    "test_every_response_token_counts_alike": {
        "has_the_gradient_of_the_rows_means": (
            BACKWARD, "(nats / example.datum.n_response / len(batch)).backward()"),
    },
    "test_an_example_counts_by_its_weight": {
        "forgets_the_weight": (NATS, UNWEIGHTED),
        "weighs_twice": (NATS, UNWEIGHTED.replace("1.0", "example.support.weight**2")),
        "has_the_gradient_without_the_weight": (BACKWARD, f"({UNWEIGHTED} / count).backward()"),
    },
    "test_a_linear_loss_trains_alike_by_its_weights_and_by_its_value": {
        "sums_where_there_are_weights": (
            BACKWARD, "(nats / (1 if objective.weights(example.support) is not None else count))"
            ".backward()"),
    },
    "test_a_step_clears_the_gradient": {
        "keeps_the_gradient": ("self.optimizer.zero_grad()", ""),
    },
    "test_gradients_add_up_until_a_step": {
        "clears_at_each_call": ("total = 0.0", "total = self.optimizer.zero_grad() or 0.0"),
    },
}  # fmt: skip
STEPS = {
    "test_a_step_goes_as_far_as_the_learning_rate_says": {
        "ignores_the_learning_rate": ('group["lr"] = lr', 'group["lr"] = 0.1'),
        "takes_one_rate_for_all_but_none": ('group["lr"] = lr', 'group["lr"] = lr and 0.1'),
    },
    "test_nothing_moves_without_a_step": {
        "steps_unasked": (
            "return ImmediateResult(total / count)",
            "self.optim_step(0.1)\n        return ImmediateResult(total / count)"),
        "trains_in_the_preflight": (
            "return ()", "self.weights[UP].data += 0.01 * torch.randn(VOCABULARY, 1)\n"
            "        return ()"),
    },
    "test_requests_are_carried_out_in_order_whenever_they_are_waited_for": {
        "works_when_waited_for": (
            "return ImmediateResult(total / count)",
            "return Late(lambda: sum(objective.nats(self.student.scores(each.datum.student)"
            ".gather(1, each.support.ids), each.support).sum().item() for each in batch) / count)"),
    },
    "test_it_says_how_many_steps_it_wants_and_what_will_differ": {
        "says_one_line": ("return ()", 'return "the service draws no tokens"'),
        "wants_no_steps": ("steps_in_flight = 1", "steps_in_flight = 0"),
    },
}  # fmt: skip

STUDENT = "self.student = base.with_lora(lambda: _delta(self.weights))"
SEEDED = "manual_seed(seed)\n        self.base = base"
LORAS = {
    "test_a_fresh_lora_answers_as_the_base_model": {
        "starts_somewhere": ("torch.zeros(", "0.02 * torch.randn("),
    },
    "test_the_same_seed_starts_the_same_lora": {
        "starts_without_a_seed": (SEEDED, SEEDED.replace("seed)", "NEXT())")),
        "starts_by_one_seed": (SEEDED, SEEDED.replace("seed)", "0)")),
    },
    "test_the_base_model_stays_as_it_is": {
        "trains_the_base_model": (
            STUDENT, "base.delta = lambda: _delta(self.weights)\n        self.student = base"),
    },
    "test_two_loras_train_side_by_side": {
        "trains_one_lora_for_all": (
            STUDENT, "base.last = self\n"
            "        self.student = base.with_lora(lambda: _delta(base.last.weights))"),
    },
}  # fmt: skip
MOMENTS = "torch.load(folder / MOMENTS, weights_only=True))"
FILES = "{WEIGHTS: _bytes(self.weights), MOMENTS: moments.getvalue()}"
SAVES = "write_bytes(_bytes(self.weights))"


def losing(change: str) -> tuple[str, str]:
    """Loads a state, then changes each weight's moments."""
    return MOMENTS, f"{MOMENTS}; [each{change} for each in self.optimizer.state.values()]"


STATES = {
    "test_training_resumes_as_if_it_had_not_stopped": {
        "forgets_the_moments": losing(".clear()"),
        "forgets_the_second_moment": losing("['exp_avg_sq'].zero_()"),
        "counts_steps_from_zero": losing("['step'].zero_()"),
    },
    "test_a_state_is_of_the_moment_at_which_it_was_requested": {
        "forgets_the_weights": ("self._copy(load_file(folder / WEIGHTS))", "pass"),
        "starts_again": ("self._copy(load_file(folder / WEIGHTS))", "return"),
        "saves_when_waited_for": (f"ImmediateResult({FILES})", f"Late(lambda: {FILES})"),
    },
    "test_a_states_files_can_be_written": {
        "saves_into_a_folder": ("{WEIGHTS: _bytes", "{'step/' + WEIGHTS: _bytes"),
        "saves_text": ("{WEIGHTS: _bytes", "{'step.txt': '3', WEIGHTS: _bytes"),
        "saves_nothing": (FILES, "{}"),
    },
    "test_a_lora_starts_as_an_earlier_bake_and_trains_on": {
        "ignores_the_start": ("if start is not None:", "if False:"),
        "trains_nothing_from_a_start_on": (  # the weights that are loaded are not those trained
            STUDENT, "self.student = base.with_lora(lambda: "
            "_delta(_read(start) if start else self.weights) + 0 * self.weights[UP].sum())"),
        "saves_the_change_alone": (
            "_copy(_read(start))", "_copy(_read(start)); self.start = self.weights[UP].clone()",
            SAVES, "write_bytes(_bytes(self.weights | "
            "{UP: self.weights[UP] - vars(self).get('start', 0)}))"),
        "trains_in_the_earlier_bakes_folder": (
            "self.base = base\n", "self.base, self.start = base, start\n",
            "self.optimizer.zero_grad()", "self.optimizer.zero_grad()\n"
            "        self.start and self.save_adapter(Path(self.start.uri))"),
    },
    "test_an_unfit_checkpoint_is_no_start": {
        "starts_afresh_where_it_cannot": (
            "if start is not None:", "with suppress(BakeError, AttributeError):"),
        "fails_by_an_error_of_torch": (
            'raise BakeError(f"train.rank', 'raise RuntimeError(f"size mismatch for lora_A'),
    },
    "test_starting_from_a_checkpoint_is_refused": {
        "says_that_it_starts_from_nothing": ({"starts_from_checkpoint": False},),
    },
}  # fmt: skip

# Loads an adapter as it is, always starts afresh, and exports nothing.
REFUSES_STRENGTH = LOADS, f"if strength != 1:\n            raise BakeError('no')\n        {LOADS}"
REFUSES_EXPORT = "from peft import LoraConfig", "raise BakeError('no')"
PLAIN = (
    *REFUSES_STRENGTH, *REFUSES_EXPORT, "return ByteTrainer(",
    "if start is not None:\n            raise BakeError('no')\n        return ByteTrainer(",
)  # fmt: skip
ADAPTERS = {
    "test_a_checkpoint_names_its_backend_and_its_model": {
        "is_of_another_backend": ('Checkpoint("toy",', 'Checkpoint("torch",'),
        "is_of_no_digest": ("self.base.digest, uri", '"", uri'),
        "is_of_a_path": ('uri="")', "uri=str(folder))"),
        "has_numbers": ('uri="")', 'uri="", details={"rank": 4})'),
    },
    "test_no_key_is_seen": {
        "saves_the_environment": (
            'uri="")', 'uri="", details=dict(os.environ))', {"keys": ("PATH",)}),
    },
    "test_the_baked_model_is_the_student_that_was_saved": {
        "saves_half": (
            SAVES, "write_bytes(_bytes(self.weights | {UP: self.weights[UP] / 2}))"),
        "loads_the_base_model": (LOADED, "return base"),
    },
    "test_base_and_baked_models_answer_side_by_side": {
        "loads_onto_the_base_model": (
            LOADED, f"base.delta = lambda: _delta(weights)\n        {LOADED}"),
        "loads_one_at_a_time": (
            LOADS, "self.last = _read(checkpoint)\n        return",
            "strength * _delta(weights)", "strength * _delta(self.last)"),
    },
    "test_a_folder_without_an_adapter_is_refused": {
        "loads_what_is_trained": (  # out of its memory, whatever is in the folder
            "return ByteTrainer(_ours(base), rank, seed, start)",
            "self.last = ByteTrainer(_ours(base), rank, seed, start)\n        return self.last",
            LOADS, "return self.last.student\n        return"),
        "loads_anything": (
            LOADS, "with suppress(BakeError):\n            weights = _read(checkpoint)\n"
            "        return base if 'weights' not in locals() else",
            "_ours(base).with_lora(lambda: strength", "base.with_lora(lambda: strength"),
        "crashes_without_a_file": ('BakeError(f"{checkpoint', 'OSError(f"{checkpoint'),
    },
    "test_a_baked_model_has_its_base_models_name_and_digest": {
        "loads_under_another_digest": (
            LOADED, "baked = copy.copy(base)\n        baked.digest += '-baked'\n"
            "        return baked"),
    },
    "test_strength_scales_the_change_of_the_weights": {
        "ignores_the_strength": ("strength * _delta", "_delta"),
        "takes_no_strength_for_all": ("strength * _delta", "(strength or 1.0) * _delta"),
        "scales_a_and_b": ("strength * _delta", "strength**2 * _delta"),
        "scales_by_the_root": ("strength * _delta", "strength**0.5 * _delta"),
        "takes_any_strength_for_all": ("strength * _delta", "float(strength > 0) * _delta"),
        "divides_by_the_strength": (
            "strength * _delta", "(strength and 1 / strength) * _delta"),
        "scales_every_adapter": (  # as where a layer has one scaling for all of them
            LOADS, f"self.strength = strength\n        {LOADS}",
            "strength * _delta", "self.strength * _delta"),
        "scales_the_base_model": (
            LOADS, f"base.head = base.head * (strength or 1)\n        {LOADS}"),
    },
    "test_an_adapter_is_exported_in_pefts_format": {
        "exports_at_full_strength": ("strength * weights[UP]", "weights[UP]"),
        "exports_a_and_b_scaled": ("strength * weights[UP]", "strength**2 * weights[UP]"),
        "exports_nothing": ("from peft import LoraConfig", "return"),
        "refuses_to_export": REFUSES_EXPORT,
        "exports_weights_alone": (".save_pretrained(str(folder))", ""),
        "exports_zeros": ("strength * weights[UP]", "0 * weights[UP]"),
        "exports_a_without_b": ("weights | {UP: strength * weights[UP]}", "{DOWN: weights[DOWN]}"),
        "exports_another_rank": ("r=rank, lora_alpha", "r=8, lora_alpha"),
        "has_one_rank_for_all": ("(_ours(base), rank,", "(_ours(base), 8,"),
    },
    "test_another_strength_is_refused": {
        "says_that_it_has_one_strength": ({"scales_adapters": False},),
    },
    "test_another_strength_is_not_exported": {
        "exports_at_a_strength_that_it_does_not_load_at": (
            *REFUSES_STRENGTH, {"scales_adapters": False, "scales_exports": False}),
    },
    "test_export_is_refused": {"says_that_it_exports_nothing": ({"exports": False},)},
}  # fmt: skip

for faults in (LOSSES, STEPS, LORAS, STATES, ADAPTERS):
    globals().update(backend_suites(faults))
TestGoodPlain = suite_for(
    ToySuite,
    "backend",
    lambda: backend(*PLAIN, *BY_GRADIENT),
    exports=False,
    scales_adapters=False,
    scales_exports=False,
    starts_from_checkpoint=False,
)
