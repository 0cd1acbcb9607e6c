"""verify.json goes through its schema and back, and a damaged one is refused."""

from __future__ import annotations

import json
from importlib.resources import files
from pathlib import Path
from typing import Any

import pytest
from verify_example import RESULT

from promptbake.errors import BakeError
from promptbake.report.verify_result import VerifyResult, json_schema


def test_a_result_comes_back_as_it_was_saved(tmp_path: Path) -> None:
    RESULT.save(tmp_path / "verify.json")
    assert VerifyResult.load(tmp_path / "verify.json") == RESULT
    record = json.loads((tmp_path / "verify.json").read_bytes())
    assert record == RESULT.as_json()
    assert record["version"] == 2
    assert "prompted" not in record["evaluators"]["length"]  # what was not measured is left out
    assert record["seconds"] == {"data": None, "bake": 412.7, "verify": 9.44}
    assert RESULT.gap_closed == 0.7708
    assert RESULT.evaluators["length"].means == {"base": 3.0, "baked": 1.5}


def changed(*keys: str, value: Any = None) -> str:
    """verify.json with another value, or without it where that is None."""
    record = part = RESULT.as_json()
    for key in keys[:-1]:
        part = part[key]
    part[keys[-1]] = value
    if value is None:
        del part[keys[-1]]
    return json.dumps(record)


@pytest.mark.parametrize(
    ("content", "problem"),
    [
        ("{", r"\(Invalid JSON: "),
        ("[]", r"\(Input should be an object"),
        ('"\\ud800"', r"\(Invalid JSON: "),
        (changed("thresholds"), r"\(thresholds: Field required"),
        (changed("version", value=1), r"\(version: Input should be 2"),
        (changed("extra", value=1), r"\(extra: Extra inputs are not permitted"),
        (changed("kl", "baked"), r"\(kl\.baked: Field required"),
        (changed("kl", "kind", value="most"), r"\(kl\.kind: Input should be 'full' or"),
        (changed("kl", "base", value="far"), r"\(kl\.base: Input should be a valid number"),
        (changed("kl", "base", value=float("nan")), r"\(kl\.base: Input should be a finite"),
        (changed("kl", "baked", value=float("inf")), r"\(kl\.baked: Input should be a finite"),
        (changed("evaluators", "length", "scores", value={"others": {}}), r"\(evaluators\.length"),
    ],
)
def test_a_damaged_verify_json_is_refused(tmp_path: Path, content: str, problem: str) -> None:
    (tmp_path / "verify.json").write_text(content)
    what = rf"verify\.json: is no verify\.json of this version {problem}.*run `promptbake verify`"
    with pytest.raises(BakeError, match=what):
        VerifyResult.load(tmp_path / "verify.json")


def test_the_json_schema_beside_the_module_is_that_of_the_model() -> None:
    file = files("promptbake") / "report" / "verify.schema.json"
    assert json.loads(file.read_text("utf-8")) == json_schema(), (
        "write it again: json.dumps(json_schema(), indent=1)"
    )
