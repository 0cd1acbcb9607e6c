"""Plugins load, are listed with a reason where they do not, and are chosen by name."""

from __future__ import annotations

from importlib.metadata import EntryPoint
from pathlib import Path
from typing import Annotated, Any, Literal, Protocol

import pytest
from annotated_types import Gt

from promptbake.errors import BakeError
from promptbake.plugins.factories import PluginFactory
from promptbake.plugins.hookspecs import RUNTIME_ONLY
from promptbake.plugins.registry import DISABLE, GROUP, PluginChoice, Registry, load

LOSS = """
from promptbake.plugins.hookspecs import hookimpl
PROMPTBAKE_API = 2

class Loss:
    def __init__(self, weight, label):
        self.weight, self.label = weight, label

def soft(*, weight: float = 0.5, label: "str | None" = None):
    return Loss(weight, label)

@hookimpl
def promptbake_register_losses():
    return {"soft": soft}
"""


TWICE = (
    LOSS
    + """
@hookimpl(specname="promptbake_register_losses")
def more():
    return {"soft": soft}
"""
)


class Installer(Protocol):
    """Writes a plugin's module and gives its entry point."""

    def __call__(self, name: str, source: str) -> EntryPoint: ...


@pytest.fixture
def install(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Installer:
    monkeypatch.syspath_prepend(tmp_path)
    folder = tmp_path.name.replace("-", "_")

    def write(name: str, source: str) -> EntryPoint:
        module = f"{folder}_{name}"  # no other test's module has this name
        (tmp_path / f"{module}.py").write_text(source)
        return EntryPoint(name, module, GROUP)

    return write


def offering(returned: str, hook: str = "promptbake_register_losses") -> str:
    return (
        "from promptbake.plugins.hookspecs import hookimpl\nPROMPTBAKE_API = 2\n"
        f"@hookimpl\ndef {hook}():\n    return {returned}\n"
    )


def reasons(registry: Registry) -> dict[str, str]:
    return {failure.plugin: failure.reason for failure in registry.load_failures}


def refusal(registry: Registry, name: str, options: dict[str, Any] | None = None) -> str:
    with pytest.raises(BakeError) as caught:
        registry.choose(PluginChoice("losses", name, "train.loss")).create(options or {})
    return str(caught.value)


def test_what_a_plugin_offers_is_chosen_listed_and_created(install: Installer) -> None:
    registry = load([install("good", LOSS)])
    factory = registry.choose(PluginChoice("losses", "soft", "train.loss"))
    assert (factory.kind, factory.name, factory.plugin, factory.version) == (
        "losses",
        "soft",
        "good",
        "?",
    )
    assert [option.as_json() for option in factory.options] == [
        {"name": "weight", "type": "float", "default": 0.5, "required": False, "meaning": ""},
        {"name": "label", "type": "str | None", "default": None, "required": False, "meaning": ""},
    ]
    assert vars(factory.create({})) == {"weight": 0.5, "label": None}
    assert vars(factory.create({"weight": 1, "label": "x"})) == {"weight": 1.0, "label": "x"}
    assert registry.of("losses") == (factory,)
    assert registry.of("teachers") == ()


@pytest.mark.parametrize(
    ("source", "reason"),
    [
        ("import no_such_sdk", "needs the module no_such_sdk: pip install no_such_sdk"),
        ("1 / 0", "ZeroDivisionError: division by zero"),
        ("a b", "SyntaxError: invalid syntax"),
        ("raise ImportError('two\\nlines')", "ImportError: two lines"),
        (offering("{}", "promptbake_register_foo"), "unknown hook 'promptbake_register_foo'"),
        (offering("[]"), "promptbake_register_losses must return a mapping from name to factory; "
         "found []"),
        (offering("None"), "must return a mapping from name to factory; found None"),
        (offering("{'a': 3}"), "must return a mapping from name to factory; found {'a': 3}"),
        (offering("{3: dict}"), "must return a mapping from name to factory; found {3: "),
        (offering("{}['a']"), "promptbake_register_losses failed: KeyError: 'a'"),
        ("raise SystemExit(3)", "SystemExit: 3"),
        (offering("{}"), "promptbake_register_losses offers nothing, or is not marked with @hook"),
        ("PROMPTBAKE_API = 2", "it implements none of the hooks: promptbake_register_data_provi"),
        ("", "it does not say which API it was written for; put PROMPTBAKE_API = 2 into its "
         "module"),
        ("PROMPTBAKE_API = 3", "it was written for version 3 of the plugin API, and this "
         "promptbake has version 2; upgrade promptbake"),
        ("PROMPTBAKE_API = 1", "has version 2; upgrade the plugin: 'Moving to API 2'"),
        ("PROMPTBAKE_API = 'new'", "PROMPTBAKE_API = 'new': expected a number, 2"),
        ("PROMPTBAKE_API = True", "PROMPTBAKE_API = True: expected a number, 2"),
        ("class Mute(Exception):\n    def __str__(self): 1 / 0\nraise Mute", "Mute: (it cannot"),
        ("raise BaseException('panic')", "BaseException: panic"),
        (LOSS.replace("@hookimpl", ""), "offers nothing, or is not marked with @hookimpl"),
        (LOSS.replace('{"soft"', '{"so ft"'), "'so ft' is no name such as skew_kl"),
        (LOSS.replace("weight: float", "weight: 'Nowhere'"), "'soft': its options cannot be"),
        (TWICE, "promptbake_register_losses offers a name twice: soft"),
    ],
)  # fmt: skip
def test_a_broken_plugin_is_listed_with_its_reason_and_the_others_work(
    install: Installer, source: str, reason: str
) -> None:
    registry = load([install("broken", source), install("good", LOSS)])
    assert reason in reasons(registry)["broken"]
    assert "\n" not in reasons(registry)["broken"]
    assert [factory.name for factory in registry.factories] == ["soft"]


def test_a_name_that_two_plugins_offer_is_refused_with_both(install: Installer) -> None:
    points = [install("one", LOSS), install("two", LOSS)]
    assert refusal(load(points), "soft") == (
        "train.loss = 'soft': the plugins one and two both offer it; leave one out, as with "
        "PROMPTBAKE_DISABLE_PLUGINS=two"
    )


def test_disabled_plugins_are_left_out_and_say_so(
    install: Installer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(DISABLE, " two, three,")
    registry = load([install("one", LOSS), install("two", LOSS), install("three", "1 / 0")])
    assert registry.choose(PluginChoice("losses", "soft", "train.loss")).plugin == "one"
    assert reasons(registry) == dict.fromkeys(("two", "three"), f"left out by {DISABLE}")
    with pytest.raises(BakeError, match=f"{DISABLE}: no plugin is called three; installed: one, t"):
        load([install("one", LOSS), install("two", LOSS)])


FACTORIES = """
import functools
from dataclasses import dataclass
from typing import Literal
from promptbake.plugins.hookspecs import hookimpl
PROMPTBAKE_API = 2

class Plain:
    def __repr__(self): return "Plain()"

@dataclass
class Record:
    size: int = 3

def needs(*, model: str): return model

def loose(*, size=1): return size

def swallow(**others): return others

def literal(*, mode: Literal["A", "B"] = "A"): return mode

@hookimpl
def promptbake_register_losses():
    half = functools.partial(needs, model="m")
    return {"plain": Plain, "record": Record, "needs": needs, "loose": loose,
            "swallow": swallow, "literal": literal, "half": half}
"""


@pytest.mark.parametrize(
    ("name", "options", "product"),
    [
        ("plain", {}, "Plain()"),
        ("record", {"size": "4"}, "Record(size=4)"),
        ("record", {}, "Record(size=3)"),
        ("loose", {"size": "x"}, "'x'"),
        ("swallow", {}, "{}"),
        ("half", {}, "'m'"),
        ("half", {"model": "n"}, "'n'"),
        ("needs", {"model": "n"}, "'n'"),
    ],
)
def test_a_factory_may_be_any_callable(
    install: Installer, name: str, options: dict[str, Any], product: str
) -> None:
    chosen = load([install("many", FACTORIES)]).choose(PluginChoice("losses", name, "train.loss"))
    assert repr(chosen.create(options)) == product
    assert (chosen.options == ()) == (name in ("plain", "swallow"))


@pytest.mark.parametrize(
    ("name", "options", "problem"),
    [
        ("sotf", {}, "train.loss: unknown loss 'sotf'; available: half, literal, loose, needs, "
         "plain, record, soft, swallow (did you mean soft?). Did not load: broken (needs the "
         "module no_such_sdk: pip install no_such_sdk)"),
        ("soft", {"wieght": 1}, "options.losses.soft.wieght: losses 'soft' (plugin good) has no "
         "such option; it takes: weight, label (did you mean weight?)"),
        ("soft", {"label": "x", "weight": "Heavy"}, "options.losses.soft.weight: input should be a "
         "valid number, unable to parse string as a number; found 'Heavy'"),
        ("needs", {}, "options.losses.needs.model: is missing; expected str: "
         "--set options.losses.needs.model=..."),
        ("literal", {"mode": "C"}, "options.losses.literal.mode: input should be 'A' or 'B'; "
         "found 'C'"),
        ("swallow", {"a": 1}, "options.losses.swallow.a: losses 'swallow' (plugin many) has no "
         "such option; it takes: none"),
    ],
)  # fmt: skip
def test_an_unknown_name_and_wrong_options_are_refused(
    install: Installer, name: str, options: dict[str, Any], problem: str
) -> None:
    sources = {"many": FACTORIES, "good": LOSS, "broken": "import no_such_sdk"}
    registry = load([install(*plugin) for plugin in sources.items()])
    assert refusal(registry, name, options) == problem


def test_without_plugins_none_is_available() -> None:
    assert refusal(load([]), "soft").endswith("unknown loss 'soft'; available: none")


def test_options_of_a_plugin_that_is_not_used_may_be_incomplete(install: Installer) -> None:
    factory = load([install("many", FACTORIES)]).choose(
        PluginChoice("losses", "needs", "train.loss")
    )
    assert factory.check({}) == {}


def test_the_types_of_options_are_shown_without_their_bounds() -> None:
    def factory(
        *,
        size: Annotated[int, Gt(0), RUNTIME_ONLY] = 1,
        urls: Annotated[str | list[str] | None, RUNTIME_ONLY] = None,
        table: dict[str, Annotated[float, Gt(0)]] | None = None,
        mode: Literal["a", "b"] = "a",
        anything=None,  # type: ignore[no-untyped-def]
    ) -> None:
        """Nothing."""

    types = [option.type for option in PluginFactory("losses", "x", "p", "1", factory).options]
    assert types == [
        "int",
        "str | list[str] | None",
        "dict[str, float] | None",
        "'a' | 'b'",
        "Any",
    ]


def test_a_runtime_only_option_is_no_result_option() -> None:
    def factory(*, size: Annotated[int, Gt(0), RUNTIME_ONLY] = 1, mode: str = "a") -> None:
        """Nothing."""

    factory = PluginFactory("losses", "x", "p", "1", factory)
    assert factory.result_options({"size": 3, "mode": "b"}) == {"mode": "b"}
