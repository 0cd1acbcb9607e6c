"""What would fail on Tinker is detected before anything is paid for, with its remedy."""

from __future__ import annotations

import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from fake_tinker import opened, serving

from promptbake.costs import NoBudget
from promptbake.dataset.example_turns import with_system
from promptbake.errors import BakeError
from promptbake.testing.tiny import tiny_tokenizer
from promptbake.types import Message
from promptbake_loopback.tinker import TinkerLoopback
from promptbake_tinker.base import Base
from promptbake_tinker.model import TinkerModel
from promptbake_tinker.prices import prices_of
from promptbake_tinker.renderer import CookbookRenderer, make_renderer
from promptbake_tinker.settings import Settings
from promptbake_tinker.trainer import TinkerTrainer

QUESTION = (Message("user", "Is it far?"),)


@pytest.fixture
def server(tmp_path: Path) -> Iterator[TinkerLoopback]:
    with serving(tmp_path) as server:
        yield server


@pytest.fixture
def model(server: TinkerLoopback) -> Iterator[TinkerModel]:
    with opened(server) as model:
        yield model


def trainer(model: TinkerModel) -> TinkerTrainer:
    return TinkerTrainer(model, "tinker", 4, 0)


def test_a_complete_service_gives_no_warning(model: TinkerModel) -> None:
    assert trainer(model).preflight(k=20, draws=4) == []
    assert model.base.drawn_by_service


def test_a_service_that_drops_the_k_is_refused_with_the_layout_wide(
    server: TinkerLoopback, model: TinkerModel
) -> None:
    server.inject_fault("no_k", "forward")
    with pytest.raises(
        BakeError, match=r"\(2,\) for targets of shape \(2, 2\).*tinker\.datum_layout=per_token"
    ):
        trainer(model).preflight(k=5, draws=0)
    server.inject_fault("no_k", "forward")
    forward = server.meter.forward_calls
    with opened(server, datum_layout="per_token") as other:
        assert trainer(other).preflight(k=5, draws=0) == []
    assert server.meter.forward_calls == forward  # it makes no forward call


def test_a_service_that_draws_nothing_is_reported_and_worked_around(
    server: TinkerLoopback, model: TinkerModel
) -> None:
    server.inject_fault("no_alt", "asample", times=2)
    (line,) = trainer(model).preflight(k=5, draws=4)
    assert "the response's own token stands for the tail" in line
    assert not model.base.drawn_by_service


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
        _ = Base(server.model, settings, NoBudget()).service


def test_a_tokenizer_that_does_not_load_is_named() -> None:
    with pytest.raises(BakeError, match=r"model\.name = 'no/where': could not load its tokenizer"):
        Base("no/where", Settings(), NoBudget())


@pytest.mark.parametrize("name", ["qwen3_disable_thinking", "qwen3_instruct"])
def test_a_cookbook_renderer_trains_on_what_it_samples(name: str) -> None:
    renderer = make_renderer(name, tiny_tokenizer(), "some/model", "renderer")
    assert isinstance(renderer, CookbookRenderer)
    for system in (None, "Be brief.", "Be brief.\n[user]\nHi\n[assistant]\nHo"):
        turns = with_system(system, ()) if system else ()
        whole, response = renderer.supervised(
            (*turns, *QUESTION, Message("assistant", "Ten leagues."))
        )
        assert whole == renderer.prompt(QUESTION, system) + response
        assert response == renderer.response("Ten leagues.", complete=True)
    cut = renderer.response("Ten leagues.", complete=False)
    assert response == (*cut, *renderer.stop_ids)
    assert renderer.text(response) == "Ten leagues."


@pytest.mark.parametrize(
    ("name", "model", "says"),
    [
        ("role_colon", "some/model", "ends a turn by text"),
        ("llama3", "some/model", "llama3"),
        ("nonsense", "some/model", "nonsense"),
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
