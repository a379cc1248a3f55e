"""Categories of a log, in whatever form a column says them."""

from typing import Any

import polars as pl
import pytest
from hypothesis import given
from hypothesis import strategies as st

from recsys.categories import read_categories
from recsys.logfiles import LogError


@pytest.mark.parametrize(
    ("column", "lists"),
    [
        (["a", "", None, "[Sale]", "{"], [["a"], None, None, ["[Sale]"], ["{"]]),
        ([["a", "b", "a"], [], None, [None, ""]], [["a", "b"], None, None, None]),
        (['["a", "b"]', "c", '["ü", null, "ü", 7]', "[]"], [["a", "b"], ["c"], ["ü", "7"], None]),
        ([12, None, 3, 4], [["12"], None, ["3"], ["4"]]),
        ([[1, 2], [3]], [["1", "2"], ["3"]]),
        ([None, None], [None, None]),
    ],
)
def test_texts_and_lists_become_lists(column: list[Any], lists: list[Any]) -> None:
    """Of distinct categories, in their order; nothing where there are none."""
    found, bad = read_categories("f", pl.Series("category", column))
    assert found.to_list() == lists
    assert found.dtype == pl.List(pl.String)
    assert not bad.any()


def test_what_is_neither_text_nor_texts_is_told() -> None:
    """JSON of another kind in a row; columns that hold nothing of the kind are refused."""
    column = pl.Series("category", ['{"a": 1}', "a", '["a", true]', '[["a"]]', None, '["\\"]'])
    assert read_categories("f", column)[1].to_list() == [True, False, True, True, False, True]
    for odd in ([{"a": 1}], [[["a"]]], [b"a"]):
        with pytest.raises(LogError, match=r"f: category: a column of .* holds no categories"):
            read_categories("f", pl.Series("category", odd))


CHARACTERS = st.characters(exclude_categories=["Cs", "Cc"], exclude_characters="\\")
LABELS = st.lists(st.text(CHARACTERS), max_size=4)


@given(st.lists(st.none() | LABELS, min_size=1))
def test_lists_in_json_are_the_lists(rows: list[list[str] | None]) -> None:
    """A text format says the same as a Parquet file."""
    lists = pl.Series("category", rows, dtype=pl.List(pl.String))
    frame = lists.to_frame().write_ndjson().encode()
    texts = pl.read_ndjson(frame, schema={"category": pl.String})["category"]
    assert read_categories("f", texts)[0].equals(read_categories("f", lists)[0])
