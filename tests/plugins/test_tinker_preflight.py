"""What would fail on Tinker is detected before anything is paid for, with its remedy."""

from __future__ import annotations

import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from fake_tinker import opened
from tinker_cookbook import model_info
from tinker_cookbook.tokenizer_utils import get_tokenizer
from tokenizers import AddedToken

import promptbake_tinker
from promptbake.costs import NoBudget
from promptbake.dataset.example_turns import with_system
from promptbake.errors import BakeError
from promptbake.testing.tiny import tiny_tokenizer
from promptbake.types import Message
from promptbake_loopback.tinker import TinkerLoopback
from promptbake_tinker.base import Base
from promptbake_tinker.model import TinkerModel
from promptbake_tinker.preflight import recommended_lr
from promptbake_tinker.prices import prices_of
from promptbake_tinker.renderer import CookbookRenderer, make_renderer, recommended
from promptbake_tinker.settings import Settings
from promptbake_tinker.trainer import TinkerTrainer

QUESTION = (Message("user", "Is it far?"),)


@pytest.fixture
def model(server: TinkerLoopback) -> Iterator[TinkerModel]:
    with opened(server) as model:
        yield model


def trainer(model: TinkerModel) -> TinkerTrainer:
    return TinkerTrainer(model, "tinker", 4, 0)


def test_a_complete_service_gives_no_warning(model: TinkerModel) -> None:
    assert trainer(model).preflight(k=20, draws=4) == []


def test_a_service_that_drops_the_k_is_refused_with_the_layout_wide(
    server: TinkerLoopback, model: TinkerModel
) -> None:
    server.inject_fault("no_k", "forward", times=2)
    says = r"\(2,\) for targets of shape \(2, 5\).*tinker\.datum_layout=per_token"
    with pytest.raises(BakeError, match=says):
        trainer(model).preflight(k=5, draws=0)
    with opened(server, datum_layout="per_token") as other:
        assert trainer(other).preflight(k=5, draws=0) == []
    with pytest.raises(BakeError, match=says):  # the fault is left: no forward call was made
        trainer(model).preflight(k=5, draws=0)


def test_more_columns_than_the_service_takes_are_refused_before_the_teacher_is_paid(
    server: TinkerLoopback, model: TinkerModel
) -> None:
    server.inject_fault("bounded_columns", "forward")
    says = "24 columns, expected at most 20.*teacher.top_k and train.tail_draws make 24 columns"
    paid = server.meter.trained_tokens
    with pytest.raises(BakeError, match=says):
        trainer(model).preflight(k=20, draws=4)
    assert server.meter.trained_tokens == paid


def test_a_service_that_draws_nothing_is_refused_with_the_tail_to_set(
    server: TinkerLoopback, model: TinkerModel
) -> None:
    server.inject_fault("no_alt", "asample")
    with pytest.raises(BakeError, match=r"draws no tokens from the tail; set train\.tail=bucket"):
        trainer(model).preflight(k=5, draws=4)


def test_a_service_without_the_top_k_is_refused(server: TinkerLoopback, model: TinkerModel) -> None:
    server.inject_fault("no_topk", "asample")
    with pytest.raises(BakeError, match=r"preflight: .* nothing as topk_prompt_logprobs"):
        trainer(model).preflight(k=5, draws=0)


def test_more_than_the_service_gives_is_refused(model: TinkerModel) -> None:
    with pytest.raises(BakeError, match=r"preflight.*must be <= 20"):
        trainer(model).preflight(k=1001, draws=0)


def test_a_model_that_is_not_offered_is_refused(server: TinkerLoopback, tmp_path: Path) -> None:
    other = tmp_path / "other"
    other.symlink_to(server.model)
    settings = Settings(base_url=server.url, renderer="chat_template")
    base = Base(str(other), settings, NoBudget())
    with pytest.raises(BakeError, match=f"does not offer it .*available: {server.model}"):
        _ = base.supported_model
    base.service.close()


@pytest.mark.parametrize(
    ("key", "says"),
    [
        (None, "TINKER_API_KEY: is not set.*PROFILE=tinker-local"),
        ("sk-quartz-0", "TINKER_API_KEY: not a Tinker key; one begins with tml- or eyJ"),
    ],
)
def test_a_key_that_is_missing_or_malformed_is_one_clear_line(
    server: TinkerLoopback,
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
    key: str | None,
    says: str,
) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))  # where the SDK keeps credentials
    if key is None:
        monkeypatch.delenv("TINKER_API_KEY")
    else:
        monkeypatch.setenv("TINKER_API_KEY", key)
    base = Base(server.model, Settings(base_url=server.url, renderer="chat_template"), NoBudget())
    with pytest.raises(BakeError, match=says) as caught:
        _ = base.service
    assert "quartz" not in str(caught.value)


def test_an_address_where_nobody_answers_is_named(server: TinkerLoopback) -> None:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        nobody = f"http://127.0.0.1:{free.getsockname()[1]}"
    settings = Settings(base_url=nobody, renderer="chat_template", deadline=1.0)
    with pytest.raises(BakeError, match=f"{nobody}: does not answer; check the network"):
        Base(server.model, settings, NoBudget()).sampler()


def test_a_tokenizer_that_does_not_load_is_named() -> None:
    with pytest.raises(BakeError, match=r"model\.name = 'no/where': could not load its tokenizer"):
        Base("no/where", Settings(), NoBudget())


FAMILIES = (
    model_info.get_llama_info,
    model_info.get_qwen_info,
    model_info.get_deepseek_info,
    model_info.get_gpt_oss_info,
    model_info.get_moonshot_info,
    model_info.get_zai_info,
    model_info.get_nvidia_info,
    model_info.get_thinkingmachines_info,
)
MODELS = {each.organization + "/" + name for family in FAMILIES for name, each in family().items()}
BY_RENDERER = {recommended(model)[0]: model for model in sorted(MODELS)}
SPECIAL = """<|im_start|> <|im_end|> <|start|> <|end|> <|message|> <|channel|> <|constrain|>
    <|return|> <|call|> <|im_user|> <|im_assistant|> <|im_system|> <|im_middle|> [BOS] [EOS] [gMASK]
    <sop> <|system|> <|user|> <|assistant|> <|observation|> <|endoftext|> <|begin_of_text|>
    <|eot_id|> <|start_header_id|> <|end_header_id|> <¦begin▁of▁sentence¦> <¦end▁of▁sentence¦>
    <¦User¦> <¦Assistant¦>""".replace("¦", "\uff5c")  # DeepSeek's are fullwidth


def tokenizer_for(model: str) -> Any:
    """The tiny one with every renderer's special tokens; Inkling's own comes with its renderer."""
    if "Inkling" in model:
        return get_tokenizer(model)
    tokenizer = tiny_tokenizer()
    tokenizer.add_tokens([AddedToken(text, special=True) for text in SPECIAL.split()])
    tokenizer.add_tokens([AddedToken(text, special=False) for text in ("<think>", "</think>")])
    return tokenizer


@pytest.mark.filterwarnings("ignore:tml_renderers")  # of the SDK's own
@pytest.mark.parametrize("model", BY_RENDERER.values(), ids=BY_RENDERER)
def test_the_renderer_of_each_model_trains_on_what_it_samples(model: str) -> None:
    tokenizer = tokenizer_for(model)
    renderer = make_renderer("auto", tokenizer, model, "renderer")
    assert isinstance(renderer, CookbookRenderer)
    assert renderer.stop_ids
    text = "Ten\n\nleagues."
    for system in (None, "Be brief.", "Be brief.\n[user]\nHi\n[assistant]\nHo"):
        turns = with_system(system, ()) if system else ()
        whole, response = renderer.supervised((*turns, *QUESTION, Message("assistant", text)))
        assert whole == renderer.prompt(QUESTION, system) + response
        assert response == renderer.response(text, complete=True)
    cut = renderer.response(text, complete=False)
    assert renderer.text(response) == renderer.text(cut) == text
    assert not renderer.stop_ids & set(cut)
    assert tokenizer.decode(list(response)).startswith(tokenizer.decode(list(cut)))
    readme = Path(promptbake_tinker.__file__).with_name("README.md").read_text("utf-8")
    assert f"`{renderer.name}`" in readme


def test_what_the_model_thinks_is_no_part_of_its_text() -> None:
    tokenizer = tokenizer_for("openai/gpt-oss-20b")
    renderer: Any = make_renderer("auto", tokenizer, "openai/gpt-oss-20b", "renderer")
    thought = "<|channel|>analysis<|message|>Far?<|end|>"
    said = "<|start|>assistant<|channel|>final<|message|>Ten leagues."
    for answer, text in ((thought + said, "Ten leagues."), (thought, "")):
        assert renderer.text(tokenizer.encode(answer)) == text
    with pytest.raises(BakeError, match="qwen3_vl_instruct cannot render it"):
        make_renderer("qwen3_vl_instruct", tokenizer, "some/model", "renderer").response(
            "Ten<|im_end|>leagues", complete=True
        )


@pytest.mark.parametrize(
    ("model", "lr"), [("Qwen/Qwen3-8B", 4.7e-4), ("openai/gpt-oss-20b", None), ("some/model", None)]
)
def test_the_cookbooks_learning_rate_is_known_where_it_has_one(
    model: str, lr: float | None
) -> None:
    assert recommended_lr(model) == (None if lr is None else pytest.approx(lr, rel=0.01))


@pytest.mark.parametrize(
    ("name", "model", "says"),
    [
        ("llama3", "some/model", "llama3"),
        ("nonsense", "some/model", "nonsense"),
        (
            "nemotron3",
            "nvidia/NVIDIA-Nemotron-3-Nano-30B-A3B-BF16",
            "than it samples after; choose one of: nemotron3_disable_thinking$",
        ),
        ("llama3", "Qwen/Qwen3-8B", "does not fit Qwen/Qwen3-8B; .*qwen3_disable_thinking"),
    ],
)
def test_a_renderer_that_does_not_fit_is_refused(name: str, model: str, says: str) -> None:
    with pytest.raises(BakeError, match=says):
        make_renderer(name, tiny_tokenizer(), model, "renderer")


def test_the_renderer_that_is_chosen_for_a_known_model_does_not_think() -> None:
    chosen: Any = make_renderer("auto", tiny_tokenizer(), "Qwen/Qwen3-8B", "renderer")
    assert chosen.name == "qwen3_disable_thinking"
    assert not isinstance(
        make_renderer("auto", tiny_tokenizer(), "some/model", "renderer"), CookbookRenderer
    )


def test_prices_are_the_tables_or_those_given() -> None:
    listed = prices_of("Qwen/Qwen3-8B", None)
    assert listed is not None
    assert (listed.prefill, listed.sample, listed.train) == (0.195, 0.60, 0.44)
    assert "2026-07" in listed.source
    assert prices_of("some/model", None) is None
    with pytest.raises(BakeError, match="expected prefill, sample, train"):
        prices_of("some/model", {"prefill": 1.0})


def test_without_the_extra_the_line_says_what_to_install() -> None:
    program = (
        "import sys; sys.modules['tinker'] = None\n"
        "from promptbake.cli.main import main\n"
        "main(['plan', sys.argv[1], '--profile', 'tinker'])"
    )
    prompt = Path(__file__).parents[2] / "prompts" / "yoda.md"
    done = subprocess.run(
        [sys.executable, "-c", program, str(prompt)], capture_output=True, text=True, check=False
    )
    assert done.returncode == 2
    assert "pip install 'promptbake[tinker]'" in done.stderr
    assert "Traceback" not in done.stderr
