"""Seeds follow from names alone."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from promptbake.seeds import derive

parts = st.lists(
    st.text(st.characters(codec="utf-8", exclude_characters="\0"), max_size=5), max_size=3
)


@given(st.integers(0, 2**40), parts)
def test_a_seed_is_of_63_bits_and_the_same_each_time(seed: int, names: list[str]) -> None:
    assert 0 <= derive(seed, *names) < 2**63
    assert derive(seed, *names) == derive(seed, *names)


@given(st.integers(0, 3), parts, st.integers(0, 3), parts)
def test_other_names_or_another_seed_give_another_seed(
    seed: int, names: list[str], other_seed: int, others: list[str]
) -> None:
    same = (seed, names) == (other_seed, others)
    assert (derive(seed, *names) == derive(other_seed, *others)) == same


def test_a_seed_never_changes_between_releases() -> None:
    assert derive(0, "response", "science-1@0.7") == 8385474096544804992


def test_numbers_stand_for_their_digits() -> None:
    assert derive(1, 2) == derive(1, "2")
