"""verify.json goes through its schema and back, and a damaged one is refused."""

from __future__ import annotations

import json
import os
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
    assert record["version"] == 3
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
        ("{", r"is not JSON: "),
        ("[]", r"expected a JSON object; found "),
        ('"\\ud800"', r"is not JSON: "),
        (changed("thresholds"), "has no 'thresholds'"),
        (changed("version", value=1), "version: expected 3; found 1"),
        (changed("extra", value=1), "extra: is no field of it"),
        (changed("kl", "baked"), r"kl: has no 'baked'"),
        (changed("kl", "kind", value="most"), r"kl\.kind: expected 'full' or"),
        (changed("kl", "base", value="far"), r"kl\.base: expected a valid number; found 'far'"),
        (changed("kl", "base", value=float("nan")), r"kl\.base: expected a finite"),
        (changed("kl", "baked", value=float("inf")), r"kl\.baked: expected a finite"),
        (changed("evaluators", "length", "scores", value={"others": {}}), r"evaluators\.length"),
    ],
)
def test_a_damaged_verify_json_is_refused(tmp_path: Path, content: str, problem: str) -> None:
    (tmp_path / "verify.json").write_text(content)
    what = rf"verify\.json: is no verify\.json of this version: {problem}.*run `promptbake verify`"
    with pytest.raises(BakeError, match=what):
        VerifyResult.load(tmp_path / "verify.json")


def test_the_json_schema_beside_the_module_is_that_of_the_model() -> None:
    file = Path(str(files("promptbake"))) / "report" / "verify.schema.json"
    if os.environ.get("PROMPTBAKE_RECORD"):
        file.write_text(json.dumps(json_schema(), indent=1) + "\n", "utf-8")
    assert json.loads(file.read_text("utf-8")) == json_schema(), (
        "run this test once with PROMPTBAKE_RECORD=1"
    )
