"""`recsys benchmark scale`: a shop many times as large, and what it costs."""

from pathlib import Path

import numpy as np
import pytest
from rich.console import Console

from api import scale
from api.grown import grown
from recsys.bundle import Bundle
from recsys.events import Event, InputError
from recsys.recommend import Request, recommend
from recsys.registry import Registry
from recsys.session import Session
from recsys.training import train
from tests.synthetic import small_config, walks
from tests.test_training import RANKED


@pytest.fixture(scope="module")
def bundle() -> Bundle:
    neighbours = {"neighbours": {"ranking": "session_knn"}}
    # Of far fewer than there are, as in a shop that is worth copying.
    narrow = {"session_embedding": 30}
    config = small_config(**RANKED, placements=neighbours, retrieval=narrow)
    return train(walks(350, items=120), config)


def listed(bundle: Bundle, *items: str, placement: str = "default") -> list[str]:
    events = [Event("view", "s", item, timestamp=float(k)) for k, item in enumerate(items)]
    session = Session.from_events(events, config=bundle.config.session)
    return recommend(bundle, session, Request(n=10, placement=placement)).item_ids


def test_a_shop_is_copied(bundle: Bundle) -> None:
    """Each copy has the lists of the first, of its own items, and nothing is nearer by being a
    copy."""
    large = grown(bundle, 360)
    assert len(large.items) == large.facts.counts["items"] == 360
    assert large.facts.counts["sessions"] == 3 * len(bundle.session_knn.indptr) - 3
    assert (np.diff(large.popularity.counts) <= 0).all()
    before = listed(bundle, "i50", "i51")
    neighbours = listed(bundle, "i50", "i51", placement="neighbours")
    copies = []
    for copy in range(3):
        visit = f"i50~{copy}", f"i51~{copy}"
        assert listed(large, *visit, placement="neighbours") == [f"{i}~{copy}" for i in neighbours]
        found = listed(large, *visit)
        own = [item.partition("~")[0] for item in found if item.endswith(f"~{copy}")]
        assert own[0] == before[0]
        assert len({*own} & {*before}) >= 4
        copies.append(own[:5])
    assert copies == [copies[0]] * 3
    vectors = large.session_embedding.item_vectors
    same = (vectors[0::3] * vectors[1::3]).sum(axis=1)
    assert abs(float(same.mean())) < 0.3
    assert float((vectors[0::3][:-1] * vectors[0::3][1:]).sum(axis=1).mean()) == pytest.approx(
        float(
            (bundle.session_embedding.item_vectors[:-1] * bundle.session_embedding.item_vectors[1:])
            .sum(axis=1)
            .mean()
        ),
        abs=1e-4,
    )


def test_a_smaller_shop_has_the_popular_items(bundle: Bundle) -> None:
    """And the sessions as far as they are of those; in fewer dimensions if wanted."""
    small = grown(bundle, 100, dimensions=4)
    assert small.items.ids(range(100)) == [f"{name}~0" for name in bundle.items.ids(range(100))]
    assert small.session_embedding.item_vectors.shape == (100, 4)
    assert int(small.session_knn.items.max()) == 99
    assert int(small.transitions.neighbours.max()) < 100
    assert int(small.item_knn.neighbours.max()) < 100
    assert len(listed(small, "i50~0")) == 10


def test_sizes_that_are_none_are_explained(bundle: Bundle) -> None:
    """Too few items, and more dimensions than there are."""
    with pytest.raises(InputError, match="items: at least 100 are needed, got 5"):
        grown(bundle, 5)
    with pytest.raises(InputError, match="dimensions: the session embedding has 8, got 9"):
        grown(bundle, 200, dimensions=9)


def test_every_figure_is_measured(bundle: Bundle, tmp_path: Path) -> None:
    """In process and on the real server, with a picture."""
    Registry(tmp_path / "bundles").publish(bundle)
    console = Console(stderr=True, width=120)
    found = scale.benchmark_scale(
        tmp_path, [250], console, tmp_path / "scale.png", lists=20, rate=40.0, seconds=0.5
    )
    (row,) = found["sizes"]
    assert row["items"] == 250
    assert row["index"] == "exact"
    assert row["recall"] == 1.0
    for key, steps in (("by_length", 7), ("by_n", 6), ("by_filter", 4)):
        assert len(row[key]) == steps
        assert all(cell["p50"] > 0 for cell in row[key].values())
    assert set(row["served"]["statuses"]) == {"200", "202"}
    assert row["served"]["memory_mb"]["workers"] > 0
    assert (tmp_path / "scale.png").stat().st_size > 10_000
    for table in scale.tables(found):
        console.print(table)
