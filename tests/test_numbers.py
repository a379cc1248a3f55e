"""Texts and their numbers."""

import numpy as np
import polars as pl
import pytest
from hypothesis import given
from hypothesis import strategies as st

from recsys import numbers
from recsys.numbers import numbered, renumbered

TEXTS = st.lists(st.one_of(st.none(), st.text(max_size=3)), max_size=60)


def by_hand(texts: list[str | None]) -> tuple[list[int], list[str]]:
    found: dict[str, int] = {}
    return [-1 if t is None else found.setdefault(t, len(found)) for t in texts], list(found)


@given(TEXTS)
def test_texts_are_numbered_as_they_come(texts: list[str | None]) -> None:
    """The first is 0, one that came before has its number, none has -1."""
    found, names = numbered(pl.Series("text", texts, dtype=pl.String))
    assert (found.tolist(), names.to_list()) == by_hand(texts)
    assert found.dtype == np.int32


def test_a_table_grows() -> None:
    """Many texts, each of them twice, in another order."""
    rng = np.random.default_rng(0)
    texts = [f"t{k}" for k in rng.permutation(np.repeat(np.arange(30_000), 2))]
    found, names = numbered(pl.Series(texts))
    assert (found.tolist(), names.to_list()) == by_hand(texts)


@given(TEXTS)
def test_texts_of_one_hash_are_told_apart(texts: list[str | None]) -> None:
    """However many share it."""
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(numbers, "_hashes", lambda given: np.full(len(given), 7, np.uint64))
        found, names = numbered(pl.Series("text", texts, dtype=pl.String))
    assert (found.tolist(), names.to_list()) == by_hand(texts)


@given(st.lists(st.integers(-1, 20), max_size=40))
def test_numbers_close_up(given: list[int]) -> None:
    """Those that occur are counted in the order of their first; -1 stays."""
    found, were = renumbered(np.array(given, dtype=np.int32))
    there = [number for number in given if number >= 0]
    assert were.tolist() == list(dict.fromkeys(there))
    assert [int(were[k]) for k in found if k >= 0] == there
    assert [k < 0 for k in found] == [number < 0 for number in given]
