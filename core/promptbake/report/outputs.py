"""What is made of verify.json for people and for CI servers: a page, JUnit XML, a model card."""

from __future__ import annotations

from promptbake.distill.checkpoints import CARD
from promptbake.files import write_atomic
from promptbake.report import card, junit, page
from promptbake.report.evidence import Evidence
from promptbake.report.verify_result import VerifyResult
from promptbake.runs.run_folder import Run


def write(run: Run) -> None:
    """Write report.html, verify.junit.xml and the adapter's card again.

    Raises BakeError where there is no readable verify.json or evidence.json.
    """
    page.write(run)
    result = VerifyResult.load(run.verify)
    write_atomic(run.junit, junit.render(result))
    if has_own_card(run):
        write_atomic(run.card, card.render(result, Evidence.load(run.evidence)))


def hide_prompt(run: Run) -> None:
    """Take the prompt's text out of evidence.json and verify.json; `write` follows from these."""
    Evidence.load(run.evidence).hidden().save(run.evidence)
    result = VerifyResult.load(run.verify)
    if result.system_prompt is not None:
        hidden = result.system_prompt.model_copy(update={"text": None})
        result.model_copy(update={"system_prompt": hidden}).save(run.verify)


def has_own_card(run: Run) -> bool:
    """Whether the adapter's card is promptbake's: a backend may have written one."""
    return run.adapter.is_dir() and CARD not in run.stage("bake").get("adapter", {})
