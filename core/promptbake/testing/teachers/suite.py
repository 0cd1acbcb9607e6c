"""The conformance suite for teachers."""

from __future__ import annotations

import os

import pytest
import torch

from promptbake.errors import BakeError
from promptbake.interfaces import Model, Teacher
from promptbake.testing.keys import check_unseen, everything_logged
from promptbake.testing.teachers.answers import difference, refusal, shown
from promptbake.testing.teachers.tails import TailTests
from promptbake.testing.teachers.teacher_client import Interview, seeds_of
from promptbake.types import Span


class TeacherSuite(TailTests):
    """Fixture `teacher`: the teacher, pointed at the tiny model of `promptbake.testing`.

    What it says is held against the fixture `reference`, a plain forward pass of that model: a
    function from a span to the log-probabilities [N, V] at its response, in nats. `model` is what
    `open_model` gives; override it for a teacher that wants a backend of its own. Override both for
    a teacher that cannot be pointed at the tiny model.

    - `tolerance`, in nats: how far rounding may take it from the reference.
    - `top_k`: how many log-probabilities a position it is asked for, where the service gives no 6.
    - `draws_itself = False`: it makes no draws; asked for some, it gives the response's own token
      as the one that stands for the tail, weighted for the temperature that it was sampled at.
    - `stands_for_the_tail = False`: it can do neither; asked for draws, it raises a BakeError.
    - `asks_base_model = False`: it never calls `open_model`.
    - `keys`: the environment variables that hold its keys. Set them in a fixture.
    """

    # What they depend on.

    def test_an_answer_does_not_depend_on_its_company(
        self, ask: Interview, spans: list[Span]
    ) -> None:
        seeds = seeds_of(spans)
        together = ask(spans, draws=self.draws, seeds=seeds)
        turned = ask(spans[::-1], draws=self.draws, seeds=seeds[::-1])[::-1]
        for index, span in enumerate(spans):
            (alone,) = ask([span], draws=self.draws, seeds=[seeds[index]])
            for found, where in ((together, "among others"), (turned, "in another order")):
                problem = difference(found[index], alone, self.tolerance)
                assert not problem, (
                    f"span {index} alone, and {where}: {problem}; look at the mask of what is "
                    "padded, and for draws by the place in the list and not by the span's seed"
                )

    def test_the_same_question_has_the_same_answer(self, ask: Interview, spans: list[Span]) -> None:
        for one, other in zip(
            ask(spans, draws=self.draws), ask(spans, draws=self.draws), strict=True
        ):
            problem = difference(one, other, self.tolerance)
            assert not problem, (
                f"asked twice: {problem}; draws come from a generator with the span's seed"
            )

    def test_the_global_random_numbers_stay_as_they_are(
        self, ask: Interview, spans: list[Span]
    ) -> None:
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(271828)  # which nobody else does
            before = torch.get_rng_state()
            ask(spans, draws=self.draws)
            assert torch.equal(before, torch.get_rng_state()), (
                "torch's global generator was used or seeded, on which other plugins may depend: "
                "use a torch.Generator with the span's seed"
            )

    def test_it_leaves_its_input_as_it_was(
        self, teacher: Teacher, model: Model, spans: list[Span]
    ) -> None:
        given, seeds = list(spans), seeds_of(spans)
        list(
            teacher.targets(
                given, k=self.top_k, draws=self.draws, seeds=seeds, open_model=lambda: model
            )
        )
        assert given == spans, "the list of spans was changed: look for sort, pop and del"
        assert seeds == seeds_of(spans), "the list of seeds was changed: look for sort and pop"

    # What happens beside them.

    def test_it_opens_the_base_model_if_it_says_so(
        self, ask: Interview, spans: list[Span], model: Model
    ) -> None:
        opened = []

        def open_model() -> Model:
            opened.append(model)
            return model

        list(ask.raw(spans, draws=self.draws, open_model=open_model))
        assert bool(opened) == self.asks_base_model, (
            f"`open_model` was called {len(opened)} times, and `asks_base_model` is "
            f"{self.asks_base_model}"
        )

    def test_an_error_of_the_base_model_goes_on(self, ask: Interview, spans: list[Span]) -> None:
        self.capable_of("asks_base_model")
        reason = "model.name = 'tiny': cannot be had today"

        def open_model() -> Model:
            raise BakeError(reason)

        error = refusal(lambda: list(ask.raw(spans, draws=self.draws, open_model=open_model)))
        assert isinstance(error, BakeError), (
            f"open_model raised a BakeError, and the teacher {error!r}: let it go on"
        )
        assert reason in str(error), f"what open_model raised is lost: {error}"

    def test_it_prints_nothing(
        self, ask: Interview, spans: list[Span], capfd: pytest.CaptureFixture[str]
    ) -> None:
        ask(spans, draws=self.draws)
        printed = capfd.readouterr().out
        assert not printed, f"{printed[:200]!r} on stdout, amid the core's progress: use logging"

    def test_its_keys_are_told_to_nobody(
        self,
        ask: Interview,
        spans: list[Span],
        capfd: pytest.CaptureFixture[str],
        caplog: pytest.LogCaptureFixture,
    ) -> None:
        self.capable_of("keys")
        with everything_logged(caplog):
            ask(spans, draws=self.draws)
        out, err = capfd.readouterr()
        check_unseen(self.keys, {"the log": caplog.text, "stdout": out, "stderr": err})

    def test_a_refused_key_is_told_to_nobody(
        self,
        request: pytest.FixtureRequest,
        spans: list[Span],
        capfd: pytest.CaptureFixture[str],
        caplog: pytest.LogCaptureFixture,
        monkeypatch: pytest.MonkeyPatch,
    ) -> None:
        self.capable_of("keys")
        for name in self.keys:  # it begins as a key does, and is somebody else's
            monkeypatch.setenv(name, f"{os.environ.get(name, '')[:4]}of-somebody-else-0123456789")
        with everything_logged(caplog):
            error = refusal(lambda: request.getfixturevalue("ask")(spans, draws=self.draws))
        out, err = capfd.readouterr()
        places = {"the error": shown(error), "the log": caplog.text, "stdout": out, "stderr": err}
        check_unseen(self.keys, places)
