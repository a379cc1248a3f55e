"""Categories: a log's column of them, a text or a list of texts a row, as lists."""

from typing import Any

import orjson
import polars as pl

from recsys.logfiles import LogError

LISTS = pl.List(pl.String())


def read_categories(file: str, column: pl.Series) -> tuple[pl.Series, pl.Series]:
    """List(String): the distinct categories of each row in their order, null where there are none;
    and Boolean: where it holds something else.

    Text formats say a list in JSON. Raises LogError for a column that holds no categories.
    """
    if isinstance(column.dtype, pl.List | pl.Array) and not column.dtype.inner.is_nested():
        return _cleaned(column.cast(LISTS)), _nowhere(column)
    if column.dtype.is_nested() or column.dtype in (pl.Binary, pl.Object):
        raise LogError(f"{file}: category: a column of {column.dtype} holds no categories")
    texts = column.cast(pl.String)
    frame = pl.DataFrame({"text": texts})
    single = frame.select(pl.when(pl.col("text") != "").then(pl.concat_list("text")))
    lists = single.to_series()
    said = texts.str.contains(r"^\s*[\[{]").fill_null(False)
    if not said.any():
        return lists, _nowhere(column)
    found = {text: _parsed(text) for text in texts.filter(said).unique()}
    parsed = pl.DataFrame(
        {
            "text": pl.Series(list(found), dtype=pl.String),
            "list": pl.Series(list(found.values()), dtype=LISTS),
        }
    )
    told = frame.join(parsed, on="text", how="left", maintain_order="left")["list"]
    bad = said & told.is_null()
    return _cleaned(told.zip_with(said, lists)), bad


def _nowhere(column: pl.Series) -> pl.Series:
    return pl.select(pl.repeat(False, len(column))).to_series()


def _cleaned(lists: pl.Series) -> pl.Series:
    """Without what is empty or named before."""
    there = pl.element().is_not_null() & (pl.element() != "")
    kept = lists.list.eval(pl.element().filter(there)).list.unique(maintain_order=True)
    frame = pl.DataFrame({"list": kept})
    return frame.select(pl.when(pl.col("list").list.len() > 0).then("list")).to_series()


def _parsed(text: str) -> list[str] | None:
    """The texts of a JSON list, a text that is no JSON by itself; None for what is not of texts."""
    try:
        value: Any = orjson.loads(text)
    except orjson.JSONDecodeError:
        # A list with a backslash in it, which polars does not escape where it makes text of one.
        return None if text.startswith('["') and text.endswith('"]') else [text]
    if not isinstance(value, list):
        return None
    labels = [str(label) for label in value if label is not None]
    if any(isinstance(label, bool | list | dict) for label in value):
        return None
    return labels
