"""Terms: in which categories items are and what they usually cost, as far as a log says."""

from dataclasses import dataclass

import numpy as np
import polars as pl
from numpy.typing import NDArray

from recsys.interactions import IdMap

Rows = NDArray[np.int32]
Doubles = NDArray[np.float64]
Longs = NDArray[np.int64]


@dataclass(frozen=True)
class Terms:
    """What is known of a bundle's items, in its rows.

    starts: int64 [items + 1]; categories: int32, those of item k from starts[k] to starts[k + 1],
    ascending. prices: float64 [items], the usual ones, NaN where none is known.
    """

    starts: Longs
    categories: Rows
    prices: Doubles


NOTHING = Terms(np.zeros(1, np.int64), np.zeros(0, np.int32), np.zeros(0))


def fit(frame: pl.DataFrame, items: IdMap) -> tuple[IdMap, Terms]:
    """The names of all categories that items are in, and the terms of the items.

    Of an item its latest event that has some tells the categories; its usual price is the median
    over its events. frame: log columns, sorted by time.
    """
    names = items.ids(range(len(items)))
    rows = pl.DataFrame({"item_id": names}).with_row_index("item").cast({"item": pl.Int32})
    prices = np.full(len(items), np.nan)
    if "price" in frame.columns:
        usual = frame.group_by("item_id").agg(price=pl.col("price").median())
        known = rows.join(usual.drop_nulls(), on="item_id")
        prices[known["item"].to_numpy()] = known["price"].to_numpy()
    if "category" not in frame.columns:
        nothing = np.zeros(len(items) + 1, np.int64)
        return IdMap.from_ids([]), Terms(nothing, np.zeros(0, np.int32), prices)
    told = frame.select("item_id", "category").filter(pl.col("category").is_not_null())
    latest = told.group_by("item_id").agg(pl.col("category").last()).explode("category")
    held = rows.join(latest, on="item_id")
    labels = held.select(pl.col("category").unique().sort()).with_row_index("label")
    held = held.join(labels, on="category").sort("item", "label")
    counts = np.bincount(held["item"].to_numpy(), minlength=len(items))
    return IdMap.from_ids(labels["category"].to_list()), Terms(
        starts=np.concatenate([[0], np.cumsum(counts)]).astype(np.int64),
        categories=held["label"].to_numpy().astype(np.int32),
        prices=prices,
    )
