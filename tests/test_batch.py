"""Batch: lists for many are those that each would get alone."""

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import polars as pl
import polars.testing
import pytest

from recsys import batch as batches
from recsys import index
from recsys.batch import SCHEMA, Batch, Order, by_source, lists
from recsys.bundle import Bundle
from recsys.config import IndexConfig, Placement, config_from_dict
from recsys.events import InputError
from recsys.items import Item
from recsys.recommend import Request, UnknownPlacementError, recommend
from recsys.registry import Registry
from recsys.session import Session
from recsys.training import train
from tests.synthetic import log_frame

QUICK = {"ranker": {"enabled": False}, "session_embedding": {"embedding_size": 4, "epochs": 1}}


def bought(users: int = 90, items: int = 140) -> pl.DataFrame:
    """Purchases and views of users with a taste for one part of the items."""
    rng = np.random.default_rng(4)
    rows: list[dict[str, object]] = []
    for user in range(users):
        side = np.arange(user % 4, items, 4)
        for k, item in enumerate(rng.choice(side, int(rng.integers(2, 15)), replace=False)):
            kind = "purchase" if k % 2 else "view"
            known = {"user_id": f"u{user}", "session_id": f"s{user}", "type": kind}
            rows.append({**known, "item_id": f"i{item}"})
    return log_frame(rows)


@pytest.fixture(scope="module", params=["als", "bpr", "svd"])
def bundle(request: pytest.FixtureRequest) -> Bundle:
    embedding = {"model": request.param, "embedding_size": 12, "epochs": 3}
    placements = {"near": {"ranking": "embedding"}}
    return train(
        bought(), config_from_dict({"embedding": embedding, "placements": placements, **QUICK})
    )


@pytest.fixture(scope="module")
def registry(tmp_path_factory: pytest.TempPathFactory) -> Registry:
    """With one published bundle."""
    found = Registry(tmp_path_factory.mktemp("bundles"))
    embedding = {"model": "als", "embedding_size": 8, "epochs": 2}
    found.publish(train(bought(), config_from_dict({"embedding": embedding, **QUICK})))
    return found


@pytest.fixture
def small_blocks(monkeypatch: pytest.MonkeyPatch) -> None:
    """So that few users are many blocks."""
    monkeypatch.setattr(batches, "BLOCK", 16)
    monkeypatch.setattr(batches, "AT_ONCE", 1)


def users_of(bundle: Bundle) -> list[str]:
    return bundle.users.ids(range(len(bundle.users)))


def alone(bundle: Bundle, users: list[str], request: Request) -> pl.DataFrame:
    """What `recommend` answers to each."""
    rows = []
    for user in users:
        answer = recommend(bundle, Session(user_id=user), request)
        for k, item in enumerate(answer.item_ids):
            rows.append((user, k + 1, item, answer.scores[k], answer.reasons[k], answer.tier))
    return pl.DataFrame(rows, SCHEMA, orient="row")


def assert_same(found: pl.DataFrame, wanted: pl.DataFrame) -> None:
    """But for the last digits of the scores."""
    pl.testing.assert_frame_equal(found.drop("score"), wanted.drop("score"))
    np.testing.assert_allclose(found["score"], wanted["score"], rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("placement", ["default", "continue", "discover", "near"])
@pytest.mark.parametrize("source", ["embedding", ""])
def test_users_together_get_what_each_gets_alone(
    bundle: Bundle, placement: str, source: str
) -> None:
    """Items, reasons and tiers, with those left out whom the placement leaves out; known users in
    any order, and strangers between them."""
    if source:
        bundle = by_source(bundle, placement, source)
    batch = Batch.of(bundle, Request(15, placement), {})
    assert batch.together == (source == "embedding" or placement == "near")
    users = users_of(bundle)[::-1]
    users[3:3] = ["nobody", "no one"]
    assert_same(batch.lists(users), alone(bundle, users, batch.request))


def test_lists_that_come_out_short_are_filled_as_alone(bundle: Bundle) -> None:
    """Where a list is to hold more than there is, users get all of it."""
    bundle = by_source(bundle, "default", "embedding")
    batch = Batch.of(bundle, Request(200), {})
    assert_same(batch.lists(users_of(bundle)), alone(bundle, users_of(bundle), batch.request))


def test_what_the_shop_does_not_show_is_in_no_list(bundle: Bundle) -> None:
    """By either way; and what only the shop knows fills up lists that would be short."""
    hidden = {f"i{k}": Item(visible=False) for k in range(0, 140, 3)}
    hidden["new"] = Item(title="new")
    for shown in (bundle, by_source(bundle, "default", "embedding")):
        found = Batch.of(shown, Request(20), hidden).lists(users_of(shown))
        assert not set(found["item_id"]) & {item for item in hidden if item != "new"}
        longest = Batch.of(shown, Request(200), hidden).lists(users_of(shown)[:5])
        assert longest.filter(pl.col("item_id") == "new")["reason"].to_list() == ["catalogue"] * 5


def test_users_are_ranked_together_only_where_that_is_the_same(bundle: Bundle) -> None:
    """Not for lists that are to be diverse, nor by an index that is approximate."""
    near = by_source(bundle, "default", "embedding")
    assert Batch.of(near, Request(5), {}).together
    unlike = Placement(ranking="embedding", diversity=0.5)
    config = config_from_dict({**QUICK, "embedding": {"embedding_size": 4, "epochs": 1}})
    config = replace(config, placements={**config.placements, "default": unlike})
    assert not Batch.of(train(bought(), config), Request(5), {}).together
    hnsw = index.build(near.embedding.item_factors, IndexConfig(kind="hnsw"), seed=1)
    assert not Batch.of(replace(near, index=hnsw), Request(5), {}).together


@pytest.mark.usefixtures("small_blocks")
@pytest.mark.parametrize("source", ["embedding", ""])
def test_threads_change_nothing(registry: Registry, source: str) -> None:
    """The very same rows in the same order, from threads as from processes."""
    order = Order(registry.folder(), n=7, source=source)
    batch = order.batch()
    users = users_of(batch.bundle)
    one, two = (list(lists(order, batch, iter(users), threads)) for threads in (1, 2))
    assert [count for count, _ in one] == [16] * 5 + [10] == [count for count, _ in two]
    pl.testing.assert_frame_equal(*(pl.concat([f for _, f in found]) for found in (one, two)))


@pytest.mark.usefixtures("small_blocks")
def test_users_are_taken_as_they_are_needed(registry: Registry) -> None:
    """So that any number of them takes no more memory."""
    order = Order(registry.folder(), n=3, source="embedding")
    taken = 0

    def endless() -> Iterator[str]:
        nonlocal taken
        while True:
            taken += 1
            yield f"u{taken % 90}"

    for threads in (1, 2):
        taken = 0
        found = lists(order, order.batch(), endless(), threads)
        for _ in range(20):
            next(found)
        found.close()
        assert taken <= 16 * (20 + batches.AHEAD * threads + 2)


@pytest.mark.parametrize(
    ("asked", "told"),
    [
        ({"n": 0}, "--n: must be from 1 to 1000, got 0"),
        ({"source": "embeding"}, "unknown source 'embeding'; did you mean 'embedding'"),
    ],
)
def test_what_cannot_be_asked_is_refused(
    registry: Registry, asked: dict[str, object], told: str
) -> None:
    """Before anything is ranked."""
    with pytest.raises(InputError, match=told):
        Order(registry.folder(), **asked).batch()  # type: ignore[arg-type]
    with pytest.raises(UnknownPlacementError):
        Order(Path(registry.folder()), placement="basked").batch()
