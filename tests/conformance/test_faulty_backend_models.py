"""Faulty models of a backend: their renderers, samples, streams, scores and top K."""

from __future__ import annotations

from faulty_suites import suite_for, suites_for
from toy_backend import SCORES, ToySuite, backend, backend_suites

RESPONDS = "return (*text.encode(), END)"
RENDERERS = {
    "test_it_renders_to_tuples_of_tokens": {
        "gives_lists": ("(*tokens, ASSISTANT)", "[*tokens, ASSISTANT]"),
    },
    "test_it_has_tokens_that_end_a_turn": {"has_no_end": ("frozenset({END})", "frozenset()")},
    "test_the_system_prompt_is_in_the_prompt": {
        "forgets_the_system_prompt": ("[] if system is None else [", "[] and ["),
        "puts_the_system_prompt_in_the_questions_place": (
            "[*turns, *messages]", "[*turns, *messages[len(turns) :]]"),
    },
    "test_without_a_system_prompt_it_is_not_there": {
        "keeps_the_system_prompt": (
            "turns = [] if", "self.kept = system = system or vars(self).get('kept')\n"
            "        turns = [] if"),
    },
    "test_all_turns_are_in_the_prompt_in_their_order": {
        "loses_the_content": ("*message.content.encode(), END]", "END]"),
        "reads_the_last_turn_alone": ("[*turns, *messages]", "[*turns, *messages[-1:]]"),
        "reads_the_user_alone": ("[*turns, *messages]", "[*turns, *messages[::2]]"),
        "reads_backwards": ("[*turns, *messages]", "[*turns, *messages[::-1]]"),
    },
    "test_a_complete_response_ends_in_one_stop_token": {
        "never_ends_a_turn": (f"{RESPONDS} if complete else", "return"),
        "always_ends_a_turn": (" if complete else tuple(text.encode())", ""),
        "ends_a_turn_twice": (RESPONDS, "return (*text.encode(), END, END)"),
        "ends_a_turn_by_a_line": (RESPONDS, "return (*text.encode(), END, 10)"),
    },
    "test_a_response_comes_back_as_its_text": {
        "knows_ascii_alone": (
            RESPONDS, f'text = text.encode("ascii", "replace").decode()\n        {RESPONDS}'),
        "lowers_the_case": (RESPONDS, f"text = text.lower()\n        {RESPONDS}"),
        "shows_special_tokens": ('"replace")', '"replace") + "<end>" * (END in tokens)'),
        "tidies_spaces": (
            "return bytes(", 'return " ".join(bytes(', '"replace")', '"replace").split())'),
    },
}  # fmt: skip

BATCH = "sample_batch: int | None = None"
SAMPLING = {
    "test_every_prompt_gets_one_response": {
        "counts_in_each_batch": (
            BATCH, "sample_batch = 8", "yield index, Completion", "yield index % 8, Completion"),
        "reports_all_progress_each_time": ("progress(1)", "progress(index + 1)"),
    },
    "test_the_same_seeds_give_the_same_again": {
        "samples_without_seeds": ("seed=seed)", "seed=NEXT())"),
        "takes_small_seeds": ("progress(1)", "assert seed < 2**32"),  # as numpy's old generators do
    },
    "test_each_row_has_its_own_seed": {
        "has_one_seed_for_all": ("seed=seed)", "seed=seeds[0])"),
        "seeds_by_the_first": ("seed=seed)", "seed=seeds[0] + index)"),
    },
    "test_a_batch_gets_the_same_responses_whatever_else_is_sampled": {
        "says_that_rows_are_independent": ("seed=seed)", "seed=seeds[0] + index)"),
        "samples_a_batch_by_what_came_before": (
            BATCH, "sample_batch = 2", "seed=seed)", "seed=seed + NEXT())"),
    },
    "test_tokens_are_as_frequent_as_they_are_probable": {
        "ignores_the_temperature": ("temperature=temperature", "temperature=temperature and 1.0"),
        "multiplies_by_the_temperature": (
            "temperature=temperature", "temperature=temperature and 1 / temperature"),
        "sharpens_the_temperature": ("temperature=temperature", "temperature=0.6 * temperature"),
        "scores_at_a_temperature": (SCORES, f"({SCORES} / 2).log_softmax(dim=1)"),
        "scores_named_tokens_in_bits": (
            SCORES, f"1.4427 * {SCORES}", "vocabulary = True", "vocabulary = False"),
    },
    "test_temperature_zero_is_greedy": {
        "takes_zero_for_one": ("temperature=temperature", "temperature=temperature or 1.0"),
    },
    "test_each_row_has_its_own_temperature": {
        "is_always_greedy": ("temperature=temperature", "temperature=0.0"),
        "has_one_temperature_for_all": (
            "temperature=temperature", "temperature=max(temperatures)"),
    },
    "test_a_response_that_is_cut_is_not_complete": {
        "is_always_complete": ('complete=chunks[-1].stop_reason == "stop"', "complete=True"),
        "drops_the_last_token": ("Completion(tokens,", "Completion(tokens[:-1],"),
    },
    "test_a_turn_that_ends_is_complete": {
        "is_never_complete": ('complete=chunks[-1].stop_reason == "stop"', "complete=False"),
        "keeps_the_stop_token": (
            "Completion(tokens,", "Completion(tokens + (END,) * (len(tokens) < max_tokens),"),
    },
}  # fmt: skip

# It samples without its own stream, so that a stream alone can be wrong.
STREAMS = (
    "    def stream(", "    def _stream(", "self.stream(", "self._stream(", "    def sample(",
    """    def stream(self, prompt, **how):
        reasons = {}
        chunks = list(self._stream(prompt, **how))
        yield from (replace(c, stop_reason=reasons.get(c.stop_reason, c.stop_reason))
                    for c in chunks)

    def sample(""",
)  # fmt: skip
STREAMED = "list(self._stream(prompt, **how))"
STREAMING = {
    "test_a_stream_is_a_response_in_chunks": {
        "streams_without_a_seed": (STREAMED, "self._stream(prompt, **how | {'seed': NEXT()})"),
        "streams_by_one_seed": (STREAMED, "self._stream(prompt, **how | {'seed': 0})"),
        "streams_at_one_temperature": (
            STREAMED, "self._stream(prompt, **how | {'temperature': 1.0})"),
        "streams_a_token_more": (
            STREAMED, "self._stream(prompt, **how | {'max_tokens': how['max_tokens'] + 1})"),
        "streams_token_ids": (
            "yield from (", "yield from (token for c in chunks for token in c.tokens)\n"
            "        return ("),
        "streams_no_reason_to_stop": (STREAMED, f"{STREAMED}[:-1]"),
        "gives_a_reason_in_each_chunk": ("reasons = {}", "reasons = {None: 'length'}"),
        "says_that_a_cut_stream_has_ended": ("reasons = {}", "reasons = {'length': 'stop'}"),
        "has_a_reason_of_its_own": ("reasons = {}", "reasons = {'length': 'max_tokens'}"),
    },
    "test_a_turn_that_ends_is_complete": {
        "streams_past_its_end": (
            STREAMED, f"[*{STREAMED}[:-1], StreamChunk((END,)), StreamChunk((), 'length')]"),
        "says_that_an_ended_stream_was_cut": ("reasons = {}", "reasons = {'stop': 'length'}"),
    },
    "test_a_sequence_longer_than_the_context_is_refused": {
        "cuts_long_prompts_of_streams": (
            "_stream(prompt, **how)", "_stream(prompt[how['max_tokens'] - 4096 :], **how)"),
    },
}  # fmt: skip

NAMED = (  # scores named tokens alone
    "full_vocabulary = True", "full_vocabulary = False",
    "yield scores if ids is None else", "yield",
    "enumerate(self.logprobs(spans))", "enumerate([self.scores(each).detach() for each in spans])",
)  # fmt: skip
GATHERED = "scores.gather(1, ids[index])"
SCORING = {
    "test_it_says_what_it_is": {
        "has_another_name": (
            'name = "toy"\n    context', 'name = "a"\n    context', {"takes_any_name": False}),
        "has_one_warning": ("warnings: Sequence[str] = ()", 'warnings = "There is much to say."'),
        "does_not_know_its_context": ("context_tokens = 4096", "context_tokens = 0"),
    },
    "test_probabilities_are_normalised": {
        "scores_in_bits": (SCORES, f"1.4427 * {SCORES}"),
        "gives_logits": (SCORES, f"{SCORES} + 3.0"),
    },
    "test_named_tokens_are_scored_at_each_response_position": {
        "transposes": (GATHERED, f"{GATHERED}.T"),
        "scores_the_prompt_too": (
            GATHERED, f"torch.cat([torch.zeros(len(span.tokens), {3}), {GATHERED}])"),
        "gives_logits_of_named_tokens": (*NAMED, SCORES, f"{SCORES} + 3.0"),
    },
    "test_a_position_is_scored_by_what_stands_before_it": {
        "scores_a_token_late": (
            SCORES, "self.scores(replace(span, tokens=(*span.tokens, 0))).detach()"),
        "scores_a_token_early": (
            SCORES, "self.scores(replace(span, tokens=span.tokens[:-1])).detach()"),
    },
    "test_spans_are_scored_in_their_order_whatever_the_others_are": {
        "scores_the_shortest_first": (
            "index, span in enumerate(spans)",
            "index, span in sorted(enumerate(spans), key=lambda each: len(each[1].tokens))"),
        "pads_without_a_mask": (
            "for index, span in enumerate(spans)",
            "longest = max(len(each.tokens) for each in spans)\n"
            "        padding = [(0,) * (longest - len(each.tokens)) for each in spans]\n"
            "        spans = [replace(s, tokens=p + s.tokens) for s, p in zip(spans, padding)]\n"
            "        for index, span in enumerate(spans)"),
    },
    "test_each_position_is_scored_for_its_own_ids": {
        "gathers_by_the_first_row": (
            GATHERED, "scores.gather(1, ids[index][:1].expand_as(ids[index]))"),
        "sorts_the_ids": (GATHERED, "scores.gather(1, ids[index].sort(dim=1).values)"),
    },
    "test_the_rows_are_the_last_ones_of_the_span": {
        "takes_the_first_rows": (  # of the assistant's turn, whatever `n_response` says
            SCORES, "self.scores(replace(span, n_response=span.tokens[::-1].index(ASSISTANT)))"
            ".detach()[: span.n_response]"),
    },
    "test_a_sequence_longer_than_the_context_is_refused": {
        "cuts_long_spans": (
            SCORES, "self.scores(replace(span, tokens=span.tokens[-4096:])).detach()"),
        "cuts_long_prompts": ("self.stream(prompt", "self.stream(prompt[max_tokens - 4096 :]"),
        "has_an_error_of_its_own": (
            "raise BakeError(\n                f", "raise IndexError(\n                f"),
    },
    "test_no_rows_give_no_results": {
        "fails_without_rows": ("rows = enumerate(", "rows = max(prompts) and enumerate("),
    },
}  # fmt: skip

DRAWN = "drawn = torch.multinomial(tail, draws, replacement=True, generator=generator)"
WEIGHTS = "weights = tail_importance_weights(top.values, logprobs)"
TOP = "TeacherLogprobs(top.indices, top.values,"
TOP_K = {
    "test_the_top_k_are_the_most_likely_tokens": {
        "gives_the_least_likely_first": (
            TOP, "TeacherLogprobs(top.indices.flip(1), top.values.flip(1),"),
        "leaves_the_likeliest_out": (
            "min(k, VOCABULARY)", "k + 1",
            TOP, "TeacherLogprobs(top.indices[:, 1:], top.values[:, 1:],"),
        "normalises_the_top_k": (
            TOP, "TeacherLogprobs(top.indices, top.values.log_softmax(dim=1),"),
        "answers_in_reverse": ("yield index, Teacher", "yield len(spans) - 1 - index, Teacher"),
    },
    "test_the_draws_stand_for_what_is_outside_the_top_k": {
        "draws_from_the_whole_vocabulary": (
            "scores.exp().scatter(1, top.indices, 0.0)", "scores.exp()",
            WEIGHTS, "weights = (-logprobs).exp() / max(draws, 1)"),
        "draws_the_likeliest": (
            DRAWN, "drawn = tail.argmax(dim=1, keepdim=True).expand(-1, draws)"),
        "weighs_each_draw_as_the_only_one": ("weights = tail", "weights = draws * tail"),
        "forgets_the_tails_probability": (
            WEIGHTS, "weights = (-logprobs).exp() / max(draws, 1)"),
    },
    "test_each_spans_draws_have_their_own_seed": {
        "draws_from_a_global_generator": ("manual_seed(seeds[index])", "manual_seed(NEXT())"),
        "seeds_draws_by_their_place": ("(seeds[index])", "(seeds[index] + 100 * index)"),
    },
}  # fmt: skip

for faults in (RENDERERS, SAMPLING, SCORING, TOP_K):
    globals().update(backend_suites(faults))
TestGoodNamed = suite_for(ToySuite, "backend", lambda: backend(*NAMED, *STREAMS))
globals().update(
    suites_for(ToySuite, "backend", lambda *edits: backend(*STREAMS, *edits), STREAMING)
)
