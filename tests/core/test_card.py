"""adapter/README.md: what it says, and that no text from outside becomes markup."""

from __future__ import annotations

from huggingface_hub import ModelCard
from verify_example import EVIDENCE, RESULT

from promptbake.report import card
from promptbake.report.evidence import Evidence, PromptText
from promptbake.report.markdown import escape, fenced

HOSTILE = "<script>alert(1)</script> | [x](javascript:y) `z` *b* \x1b[31m\n# heading"


def with_prompts(teacher: str | None, student: str | None = "") -> Evidence:
    prompts = {
        "teacher": PromptText(name="yoda", text=teacher),
        "student": PromptText(name="short", text=student),
    }
    target = EVIDENCE.main.model_copy(update=prompts)
    return EVIDENCE.model_copy(update={"targets": [target]})


def test_the_front_matter_is_what_the_hub_reads() -> None:
    for model, base in (("owner/model-1.5", "owner/model-1.5"), ("smollm2", None), ("/a/b", None)):
        text = card.render(RESULT, EVIDENCE.model_copy(update={"model": model}))
        data = ModelCard(text).data
        assert data.base_model == base
        assert data.library_name == "peft"
        assert data.tags == list(card.TAGS)
        assert data.license is None


def test_it_has_the_verdict_and_the_numbers_with_their_intervals() -> None:
    text = card.render(RESULT, EVIDENCE)
    for part in (
        "**closer but not equivalent**",
        "| kl.gap\\_closed | 0.771 | 0.730 to 0.805 | at least 0.8 | not shown |",
        "| base | 0.4800 | 0.4100 to 0.5600 |",
        "| re-prompted | 0.0900 | no interval |",
        "Gap closed: 0.771, 95 % interval 0.721 to 0.811",
        "Control wrong prompt: gap closed -0.400, refused, as it must be.",
        "- margin changed\\: verify.margins.shift\\: 0.4; 0.5 when the bake began",
        "PeftModel.from_pretrained",
        "- learning rate: 0.002",
    ):
        assert part in text


def test_the_prompt_is_quoted_unless_it_is_to_be_hidden() -> None:
    shown = card.render(RESULT, with_prompts("Speak."))
    assert "## The prompt\n\n```text\nSpeak.\n```" in shown
    assert "Give no system prompt." in shown
    hidden = card.render(RESULT, with_prompts(None))
    assert "```text" not in hidden
    assert "## The prompt" not in hidden


def test_a_prompt_that_the_baked_model_still_needs_is_quoted_too() -> None:
    text = card.render(RESULT, with_prompts("Speak.", "Short."))
    assert "which it still needs.\n\n```text\nShort.\n```" in text
    assert "Give no system prompt." not in text
    assert "which it still needs.\n\n## " in card.render(RESULT, with_prompts(None, None))


def test_a_prompt_with_fences_stays_within_its_own() -> None:
    text = fenced("a\n````\n# b")
    assert text.startswith("`````text\n")
    assert text.endswith("\n`````")


def test_text_from_outside_is_shown_as_it_is() -> None:
    result = RESULT.model_copy(update={"prompt": HOSTILE})
    (title,) = [line for line in card.render(result, EVIDENCE).splitlines() if line[:2] == "# "]
    assert "\\<script\\>" in title
    assert "\\[x\\](javascript\\:y)" in title
    assert "\x1b" not in title
    assert escape("a\nb | c") == "a b \\| c"
    assert [escape(each) for each in ("# a", "- a", "1. a", "1.5", "a - 1.", "see www.x")] == [
        *("\\# a", "\\- a", "1\\. a", "1.5", "a - 1.", "see www\\.x")
    ]
