"""Files of items: what is read of them, what is refused and how."""

from pathlib import Path

import orjson
import polars as pl
import pytest
from hypothesis import given
from hypothesis import strategies as st

from recsys.itemfiles import ItemFileError, load_items, write_items
from recsys.items import Item, encode

TEXT = st.text(st.characters(blacklist_categories=("Cs",)), min_size=1, max_size=20)


def test_lines_are_what_the_api_takes(tmp_path: Path) -> None:
    """A later line changes what an earlier one said, empty ones count for nothing."""
    path = tmp_path / "items.ndjson"
    lines = ['{"item_id": "a", "title": "A", "price": 2}', "", '{"item_id": "a", "price": 3}']
    path.write_text("\n".join(lines))
    assert load_items([path]) == {"a": Item(title="A", price=3.0)}


@pytest.mark.parametrize("kind", ["csv", "parquet"])
def test_columns_that_are_no_fields_are_properties(tmp_path: Path, kind: str) -> None:
    """An empty cell says nothing; ids may be numbers."""
    path = tmp_path / f"items.{kind}"
    frame = pl.DataFrame(
        {"item_id": [1, 2], "category": ["x", None], "price": [2.5, None], "brand": [None, "b"]}
    )
    frame.write_csv(path) if kind == "csv" else frame.write_parquet(path)
    expected = {"1": Item(category=("x",), price=2.5), "2": Item(properties={"brand": "b"})}
    assert load_items([path]) == expected


def test_categories_of_a_parquet_file_may_be_lists(tmp_path: Path) -> None:
    """As the API takes them."""
    path = tmp_path / "items.parquet"
    pl.DataFrame({"item_id": ["a"], "category": [["x", "y"]]}).write_parquet(path)
    assert load_items([path])["a"].category == ("x", "y")


@pytest.mark.parametrize(
    ("name", "content", "words"),
    [
        ("items.ndjson", '{"item_id": "a"}\n{"item_id": "b", "price": -1}', "row 2: price: must"),
        ("items.ndjson", '{"item_id": "a", "colour": "x"}', "row 1: colour: unknown field"),
        ("items.ndjson", '{"title": "a"}', "row 1: item_id: is required"),
        ("items.jsonl", '{"item_id": ', "row 1: not JSON"),
        ("items.csv", "id,title\n1,x\n", "no column item_id; there are id, title"),
        ("items.csv", "item_id,price\n1,x\n", "row 1: price: must be a number"),
        ("items.parquet", "no parquet", "cannot be read"),
        ("items.txt", "", "a file of items ends in one of .ndjson"),
        ("", "", "ends in one of"),
    ],
)
def test_bad_files_are_named(tmp_path: Path, name: str, content: str, words: str) -> None:
    """The text names the file, the row and what would do."""
    path = tmp_path / name
    if name:
        path.write_text(content)
    with pytest.raises(ItemFileError, match=words):
        load_items([path])


def test_a_file_that_is_not_there(tmp_path: Path) -> None:
    """Is said to be none."""
    with pytest.raises(ItemFileError, match="No such file"):
        load_items([tmp_path / "items.ndjson"])


@given(
    items=st.dictionaries(
        TEXT,
        st.builds(
            Item,
            title=st.none() | TEXT,
            category=st.lists(TEXT, max_size=3, unique=True).map(tuple),
            price=st.none() | st.floats(0, 1e6),
            visible=st.booleans(),
        ),
        max_size=5,
    )
)
def test_what_is_written_is_read(tmp_path_factory: pytest.TempPathFactory, items: dict) -> None:
    """The file holds the items as they were, and appears whole."""
    path = tmp_path_factory.mktemp("items") / "items.ndjson"
    count = write_items(path, ((name, encode(item)) for name, item in items.items()))
    assert count == len(items) == len(path.read_bytes().splitlines())
    assert load_items([path]) == items
    assert [*path.parent.iterdir()] == [path]
    assert all(orjson.loads(line)["item_id"] in items for line in path.read_bytes().splitlines())
