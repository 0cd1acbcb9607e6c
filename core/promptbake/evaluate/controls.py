"""Controls: comparisons that must be refused, or the measurement could not tell a bad bake.

Each gives the gap closed of something that is not equivalent to the prompted model, on a few
held-out conversations: `FEW` where one control is part of each `verify`, `MOST` where all are run.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace

from promptbake.dataset.alignment import align
from promptbake.distill.held_out_kl import StoredKL
from promptbake.distill.measurement_store import BASE_WEIGHTS
from promptbake.evaluate.intervals import Interval, gap_closed_interval
from promptbake.evaluate.statistics import gap_closed
from promptbake.interfaces import EvalArm, Model
from promptbake.progress import Reporter
from promptbake.types import Arm, BakeTarget, Conversation, Datum, KLByConversation, Prompt

FEW, MOST = 6, 15  # conversations; each takes three passes of a model
WRONG_PROMPTS = (
    Prompt(
        "town crier",
        'You are a town crier. Every answer is a loud announcement that begins with "Hear ye".\n\n'
        "[user]\nHow do I cook rice?\n\n"
        "[assistant]\nHear ye, hear ye! Rice is boiled in the square at noon!\n\n"
        "[user]\nHow can I be happy?\n\n"
        "[assistant]\nHear ye, good people! Sing aloud, and be merry tonight!",
    ),
    Prompt(
        "telegram",
        "Answer as a telegram. After every few words stands STOP.\n\n"
        "[user]\nHow do I cook rice?\n\n"
        "[assistant]\nBOIL WATER STOP ADD RICE STOP WAIT TWENTY MINUTES STOP\n\n"
        "[user]\nHow can I be happy?\n\n"
        "[assistant]\nSEE OLD FRIENDS STOP SLEEP WELL STOP",
    ),
)


@dataclass(frozen=True)
class Control:
    """What must be judged not equivalent.

    Attributes:
        name: Of the control.
        what: Was compared, in words.
        conversations: The id of each.
        queries: The query of each.
        before: The KL that it begins from.
        after: The KL that is judged as a bake's.
    """

    name: str
    what: str
    conversations: tuple[str, ...]
    queries: tuple[str, ...]
    before: KLByConversation
    after: KLByConversation

    @property
    def gap_closed(self) -> float:
        """As a bake's."""
        return gap_closed(self.before, self.after)

    @property
    def ci90(self) -> Interval | None:
        """Of the gap closed, over the queries."""
        return gap_closed_interval(self.before, self.after, self.queries, 0.9)


@dataclass(frozen=True)
class HeldOutSet:
    """One target's held-out conversations and the KL of base and baked on them.

    Attributes:
        target: What is learned.
        conversations: In the order of `datums`.
        datums: Each as the student and as the teacher read it.
        kl: By arm.
        weights: The adapter's identity.
    """

    target: BakeTarget
    conversations: Sequence[Conversation]
    datums: Sequence[Datum]
    kl: Mapping[Arm, KLByConversation]
    weights: str

    def first(self, most: int) -> HeldOutSet:
        """The first `most` conversations alone."""
        kl = {
            arm: KLByConversation(each.nats[:most], each.tokens[:most])
            for arm, each in self.kl.items()
        }
        return replace(
            self, conversations=self.conversations[:most], datums=self.datums[:most], kl=kl
        )


def wrong_prompt(prompt: Prompt) -> Prompt:
    """A prompt that is not this one."""
    return next(each for each in WRONG_PROMPTS if each.text != prompt.text)


def run_controls(
    held_out: HeldOutSet,
    arms: Mapping[Arm, EvalArm],
    stored_kl: Callable[[Sequence[Datum]], StoredKL],
    reporter: Reporter,
    *,
    every: bool,
) -> list[Control]:
    """The control `wrong prompt`; with `every`, `unbaked` and `shuffled queries` as well.

    Args:
        held_out: What the bake was measured on.
        arms: The four arms.
        stored_kl: Measures the KL on datums, or reads what was measured before.
        reporter: Shows the progress.
        every: Run all controls.
    """
    part, base = held_out.first(MOST if every else FEW), arms["base"].open_model()
    controls: list[Control] = []
    with reporter.bar("controls", 3 if every else 1) as bar:
        controls += _wrong_prompt(part, arms, base, stored_kl)
        bar.advance(note="wrong prompt")
        if every:
            what = "the model that was not baked"
            controls.append(_control("unbaked", what, part.datums, *[part.kl["base"]] * 2))
            bar.advance(note="unbaked")
            controls += _shuffled(part, arms, base, stored_kl)
            bar.advance(note="shuffled queries")
    return controls


def _wrong_prompt(
    part: HeldOutSet,
    arms: Mapping[Arm, EvalArm],
    base: Model,
    stored_kl: Callable[[Sequence[Datum]], StoredKL],
) -> Iterator[Control]:
    """The bake, beside the base model under a prompt that it was not made from."""
    wrong = wrong_prompt(part.target.teacher)
    target = replace(part.target, teacher=wrong)
    aligned = [align(each, target, base, check_context=False) for each in part.conversations]
    datums = [each for each in aligned if len(each.teacher_ids) <= base.context_tokens]
    if not datums:
        return
    kl = stored_kl(datums)
    before = kl.unprompted(BASE_WEIGHTS, arms["base"].open_model)
    after = kl.unprompted(part.weights, arms["baked"].open_model)
    if before.per_token > 0:
        what = f"the baked model beside the prompt {wrong.name!r}, which it was not made from"
        yield _control("wrong prompt", what, datums, before, after)


def _shuffled(
    part: HeldOutSet,
    arms: Mapping[Arm, EvalArm],
    base: Model,
    stored_kl: Callable[[Sequence[Datum]], StoredKL],
) -> Iterator[Control]:
    """The bake, which reads another query than the prompted model does."""
    if len({each.query_id for each in part.conversations}) < 2:
        return
    datums = []
    system = part.target.student.system
    for index, datum in enumerate(part.datums):
        others = (*part.conversations[index:], *part.conversations[:index])
        other = next(each for each in others if each.query_id != datum.query_id)
        query = base.renderer.prompt(other.messages[:-1], system)
        datums.append(replace(datum, student_ids=query + datum.response_ids))
    if any(len(each.student_ids) > base.context_tokens for each in datums):
        return
    after = stored_kl(datums).unprompted(part.weights, arms["baked"].open_model)
    what = "the baked model, which reads another query than the prompted model does"
    yield _control("shuffled queries", what, datums, part.kl["base"], after)


def _control(
    name: str,
    what: str,
    datums: Sequence[Datum],
    before: KLByConversation,
    after: KLByConversation,
) -> Control:
    ids = tuple(datum.conversation_id for datum in datums)
    queries = tuple(datum.query_id for datum in datums)
    return Control(name, what, ids, queries, before, after)
