"""The conformance suite for teachers."""

from __future__ import annotations

from collections.abc import Mapping

import pytest
import torch

from promptbake.errors import BakeError
from promptbake.interfaces import Model
from promptbake.testing.etiquette import RefusedKeyTests, error_of
from promptbake.testing.suite import only_if
from promptbake.testing.teachers.diagnosis import difference
from promptbake.testing.teachers.tails import TailTests
from promptbake.testing.teachers.teacher_client import TeacherClient, seeds_of
from promptbake.types import Span


class TeacherSuite(TailTests, RefusedKeyTests):
    """Fixture `teacher`: the teacher, of the tiny model of `promptbake.testing`.

    Its results are compared with the fixture `reference`, a plain forward pass of that model: a
    function from a span to the log-probabilities [N, V] at its response, in nats. `model` is what
    `open_model` gives; override it for a teacher that needs a backend of its own. Override both for
    a teacher that cannot use the tiny model.

    - `tolerance`, in nats: how far rounding may take it from the reference.
    - `top_k`: how many tokens a position it is asked for, where the service gives fewer than 6.
    - `samples_tail = False`: it draws nothing from outside the top K, and says so by its own
      `samples_tail`; where draws are requested all the same, it raises a BakeError.
    - `uses_base_model = False`: it never calls `open_model`.
    - `fills_context = False`: the model's context is too long to be filled in a test.
    - `keys`: the environment variables that hold its keys. Set them in a fixture.
    """

    def test_a_result_does_not_depend_on_the_other_spans(
        self, score: TeacherClient, spans: list[Span]
    ) -> None:
        seeds = seeds_of(spans)
        together = score(spans, draws=self.draws, seeds=seeds)
        reversed_ = score(spans[::-1], draws=self.draws, seeds=seeds[::-1])[::-1]
        for index, span in enumerate(spans):
            (alone,) = score([span], draws=self.draws, seeds=[seeds[index]])
            for results, where in ((together, "among others"), (reversed_, "in another order")):
                problem = difference(results[index], alone, self.tolerance)
                assert not problem, (
                    f"span {index} alone, and {where}: {problem}; look at the mask of what is "
                    "padded, and for draws by the place in the list and not by the span's seed"
                )

    def test_the_same_spans_give_the_same_result(
        self, score: TeacherClient, spans: list[Span]
    ) -> None:
        first, second = (score(spans, draws=self.draws) for _ in range(2))
        for one, other in zip(first, second, strict=True):
            problem = difference(one, other, self.tolerance)
            assert not problem, f"{problem}; draws come from a generator with the span's seed"

    def test_the_global_random_state_is_unchanged(
        self, score: TeacherClient, spans: list[Span]
    ) -> None:
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(271828)  # which no plugin does
            before = torch.get_rng_state()
            score(spans, draws=self.draws)
            assert torch.equal(before, torch.get_rng_state()), (
                "torch's global generator was used or seeded, on which other plugins may depend: "
                "use a torch.Generator with the span's seed"
            )

    def test_the_input_is_unchanged(self, score: TeacherClient, spans: list[Span]) -> None:
        given, seeds = list(spans), seeds_of(spans)
        results = score.teacher.score(
            given, k=score.k, draws=self.draws, seeds=seeds, open_model=lambda: score.model
        )
        assert list(results), "score yields nothing"
        assert given == spans, "the list of spans was changed: look for sort, pop and del"
        assert seeds == seeds_of(spans), "the list of seeds was changed: look for sort and pop"

    def test_it_opens_the_base_model_as_the_flag_says(
        self, score: TeacherClient, spans: list[Span]
    ) -> None:
        opened = []

        def open_model() -> Model:
            opened.append(score.model)
            return score.model

        list(score.pairs(spans, draws=self.draws, open_model=open_model))
        assert bool(opened) == self.uses_base_model, (
            f"`open_model` was called {len(opened)} times, and `uses_base_model` is "
            f"{self.uses_base_model}"
        )

    @only_if("uses_base_model")
    def test_an_error_of_the_base_model_is_not_swallowed(
        self, score: TeacherClient, spans: list[Span]
    ) -> None:
        reason = "model.name = 'tiny': could not be loaded"

        def open_model() -> Model:
            raise BakeError(reason)

        error = error_of(lambda: list(score.pairs(spans, draws=self.draws, open_model=open_model)))
        assert isinstance(error, BakeError), (
            f"open_model raised a BakeError, and the teacher {error!r}: let it through"
        )
        assert reason in str(error), f"the reason that open_model gave is lost: {error}"

    def _use(self, request: pytest.FixtureRequest) -> Mapping[str, object]:
        request.getfixturevalue("score")(request.getfixturevalue("spans"), draws=self.draws)
        return {}
