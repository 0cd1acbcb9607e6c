"""What is measured once is stored by what it depends on; what is damaged is measured again."""

from __future__ import annotations

from collections.abc import Iterator
from math import nan
from pathlib import Path

import pytest

from promptbake.distill.measurement_store import MeasurementStore
from promptbake.errors import BakeError
from promptbake.types import Completion, KLByConversation, SampledAnswer

KL = KLByConversation((0.1 + 0.2, 1e-17), (1, 2), ((0.1 + 0.2,), (1e-17, 0.0)))
ARR = SampledAnswer("Arr\u2028, \r\n“matey”", tokens=5, complete=False)


@pytest.fixture
def said() -> list[str]:
    return []


def store(folder: Path, said: list[str], anew: bool = False, model: str = "a") -> MeasurementStore:
    return MeasurementStore(folder / "measurements.jsonl", said.append, anew=anew, model=model)


def test_what_was_stored_is_read_bit_for_bit(tmp_path: Path, said: list[str]) -> None:
    first = store(tmp_path, said)
    key, other = first.key(spans=((1, 2), 3)), first.key(spans=((1, 2), 4))
    first.put_kl(key, KL)
    first.put_answers([(other, ARR)])
    for each in (first, store(tmp_path, said)):
        assert each.kl(key) == KL
        assert each.answer(other) == ARR
        assert each.kl(other) is each.answer(key) is each.kl("0" * 32) is None
    assert store(tmp_path, said, model="b").key(spans=((1, 2), 3)) != key
    assert store(tmp_path, said, anew=True).kl(key) is None
    assert said == []


@pytest.mark.parametrize(
    ("written", "damaged"),
    [
        (b'"Aye"', b'"Nay"'),
        (b'"answer"', b'"kl"'),
        (b'"Aye"', b'"\xff"'),
        (b', "check": "', b', "check": "0'),
        (b'{"key"', b'"key"'),
    ],
)
def test_a_damaged_line_is_said_once_and_measured_again(
    tmp_path: Path, said: list[str], written: bytes, damaged: bytes
) -> None:
    first = store(tmp_path, said)
    first.put_answers([("a", SampledAnswer("Aye")), ("b", SampledAnswer("No"))])
    file = tmp_path / "measurements.jsonl"
    file.write_bytes(file.read_bytes().replace(written, damaged, 1))
    again = store(tmp_path, said)
    assert (again.answer("a"), again.answer("b")) == (None, SampledAnswer("No"))
    assert said == [f"{file}: 1 measurements are damaged, and made again where needed"]
    again.put_answers([("a", SampledAnswer("Aye"))])
    assert store(tmp_path, said).answer("a") == SampledAnswer("Aye")
    assert len(said) == 1


def test_what_a_kill_cut_is_no_measurement(tmp_path: Path, said: list[str]) -> None:
    store(tmp_path, said).put_answers([("a", SampledAnswer("Aye")), ("b", SampledAnswer("No"))])
    file = tmp_path / "measurements.jsonl"
    file.write_bytes(file.read_bytes()[:-3])
    again = store(tmp_path, said)
    assert (again.answer("a"), again.answer("b"), said) == (SampledAnswer("Aye"), None, [])
    again.put_answers([("b", SampledAnswer("Yes"))])
    assert store(tmp_path, said).answer("b") == SampledAnswer("Yes")


def test_each_answer_is_stored_when_it_arrives(tmp_path: Path, said: list[str]) -> None:
    def arriving() -> object:
        yield "a", SampledAnswer("Aye")
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        store(tmp_path, said).put_answers(arriving())  # type: ignore[arg-type]
    assert store(tmp_path, said).answer("a") == SampledAnswer("Aye")


def test_a_kl_that_is_not_finite_is_not_stored(tmp_path: Path, said: list[str]) -> None:
    first = store(tmp_path, said)
    first.put_kl("a", KLByConversation((nan,), (1,), ((nan,),)))
    assert first.kl("a") is None
    assert not (tmp_path / "measurements.jsonl").exists()


def test_responses_as_tokens_and_numbers_are_read_as_they_were(
    tmp_path: Path, said: list[str]
) -> None:
    first, cut = store(tmp_path, said), Completion((5, 0, 7), complete=False)
    first.put_completions([("a", cut), ("b", Completion((), complete=True))])
    first.put_numbers("c", [0.1 + 0.2, -1e-17])
    first.put_numbers("d", [0.5, nan])
    for each in (first, store(tmp_path, said)):
        assert (each.completion("a"), each.completion("b")) == (cut, Completion((), True))
        assert each.numbers("c") == (0.1 + 0.2, -1e-17)
        assert each.numbers("d") is each.numbers("a") is each.completion("c") is None
    assert said == []


def test_each_response_is_stored_as_it_arrives(tmp_path: Path, said: list[str]) -> None:
    def arriving() -> Iterator[tuple[str, Completion]]:
        yield "a", Completion((1,), complete=True)
        assert store(tmp_path, said).completion("a") == Completion((1,), complete=True)
        raise BakeError("the service is down")

    with pytest.raises(BakeError, match="down"):
        store(tmp_path, said).put_completions(arriving())
    assert store(tmp_path, said).completion("a") is not None


def test_without_a_file_all_is_kept_in_memory(tmp_path: Path, said: list[str]) -> None:
    memory = MeasurementStore(None, said.append, model="a")
    memory.put_numbers("c", [1.0])
    memory.put_kl("k", KL)
    assert (memory.numbers("c"), memory.kl("k")) == ((1.0,), KL)
    assert memory.key(seed=1) == store(tmp_path, said).key(seed=1)
    assert list(tmp_path.iterdir()) == []
