"""Reading recsys.toml."""

import dataclasses
from pathlib import Path

import pytest

from recsys.config import (
    LIVE,
    NEWCOMERS,
    Config,
    ConfigError,
    Placement,
    config_from_dict,
    load_config,
)


def test_defaults_need_no_file() -> None:
    """Without a file every setting has its default."""
    assert load_config(None) == Config()


def test_a_file_changes_what_it_names(tmp_path: Path) -> None:
    """Settings in the file replace defaults; the rest stays."""
    path = tmp_path / "recsys.toml"
    path.write_text(
        "[embedding]\nembedding_size = 32\nreg = 3\n[events.weights]\nlook = 0.5\n"
        '[placements.page]\nexclude = ["any"]\n[placements.discover]\ndiversity = 0.4\n'
    )
    config = load_config(path)
    assert config.embedding.embedding_size == 32
    assert config.embedding.reg == 3.0
    assert config.events.weights["look"] == 0.5
    assert config.events.weights["view"] == 1.0
    assert config.placements["page"] == Placement(exclude=("any",))
    usual = Config().placements["discover"]
    assert config.placements["discover"] == dataclasses.replace(usual, diversity=0.4)
    assert "default" in config.placements


def test_a_configuration_survives_the_bundle() -> None:
    """to_dict and back is the same configuration."""
    config = config_from_dict({"session": {"decay": 0.3}, "events": {"weights": {"x": -2.0}}})
    assert config_from_dict(config.to_dict()) == config


def test_declared_aggregates_join_those_there_are(tmp_path: Path) -> None:
    """A [[aggregate]] of a name that is there replaces it, others come after; all survive."""
    path = tmp_path / "recsys.toml"
    path.write_text(
        '[[aggregate]]\nname = "trending"\nkind = "window_count"\nwindow = "2h"\n'
        '[[aggregate]]\nname = "ctr"\nkind = "ratio"\ntypes = ["click"]\nof = ["impression"]\n'
    )
    config = load_config(path)
    assert [a.name for a in config.aggregate] == ["usual", "co_viewed_now", "trending", "ctr"]
    trending, ctr = config.aggregate[2:]
    assert (trending.span, trending.key, trending.half_life) == (7200, "item", "")
    assert (ctr.half_life, ctr.window, ctr.smoothing) == ("1d", "", 20.0)
    assert config_from_dict(config.to_dict()) == config


def test_what_trends_are_held_against_counts_the_same() -> None:
    """Where one of the two is declared, the other follows it."""
    table = {"name": "trending", "kind": "decayed_count", "types": ["purchase"]}
    found = {a.name: a for a in config_from_dict({"aggregate": [table]}).aggregate}
    assert (found["usual"].types, found["usual"].once) == (("purchase",), "")
    table = {"name": "usual", "kind": "decayed_count", "half_life": "30d", "once": "1d"}
    found = {a.name: a for a in config_from_dict({"aggregate": [table]}).aggregate}
    assert (found["trending"].once, found["trending"].half_life) == ("1d", "6h")


def aggregate(**fields: object) -> dict[str, object]:
    return {"aggregate": [{"name": "x", "kind": "window_count", **fields}]}


@pytest.mark.parametrize(
    ("data", "text"),
    [
        ({"aggregate": {"name": "x"}}, "aggregate: expected [[aggregate]] tables, got {"),
        ({"aggregate": [{"name": "x"}]}, "aggregate: number 1 has no kind"),
        (aggregate(kind="count"), "aggregate.x.kind: 'count' is not one of decayed_count, "),
        (aggregate(windw="1d"), "aggregate.x.windw: unknown setting; did you mean 'window'?"),
        (aggregate(window="1 year"), "aggregate.x.window: '1 year' is not a duration such as"),
        (aggregate(window="0s"), "aggregate.x.window: '0s' is not a duration such as"),
        (aggregate(half_life="1h"), "aggregate.x.half_life: window_count has none"),
        (aggregate(once="1h"), "aggregate.x.once: window_count has none, only decayed_count"),
        (
            aggregate(kind="decayed_count", once="often"),
            "aggregate.x.once: 'often' is not a duration",
        ),
        (aggregate(key="pair"), "aggregate.x.key: 'pair' is not for window_count"),
        (aggregate(kind="co_count", key="item"), "aggregate.x.key: 'item' is not for co_count"),
        (aggregate(of=["view"]), "aggregate.x.of: only of a ratio"),
        (aggregate(kind="ratio"), "aggregate.x.of: needs the event types it is a share of"),
        (aggregate(types=["viw"]), "aggregate.x.types: unknown event type 'viw'; did you mean"),
        (aggregate(name="A b"), "aggregate: name 'A b': small letters, digits and _, a letter"),
        ({"aggregate": aggregate()["aggregate"] * 2}, "aggregate.x: declared twice"),  # type: ignore[operator]
        ({"embeding": {}}, "embeding: unknown setting; did you mean 'embedding'?"),
        ({"embedding": {"regg": 1}}, "embedding.regg: unknown setting; did you mean 'reg'?"),
        ({"embedding": {"model": "nmf"}}, "embedding.model: 'nmf' is not one of als, bpr, svd"),
        ({"embedding": {"epochs": 1.5}}, "embedding.epochs: expected int, got 1.5"),
        ({"embedding": {"epochs": True}}, "embedding.epochs: expected int, got True"),
        ({"embedding": {"epochs": -1}}, "embedding.epochs: must not be negative, got -1"),
        ({"embedding": {"embedding_size": 0}}, "embedding.embedding_size: must be at least 1"),
        ({"session": {"max_events": 0}}, "session.max_events: must be at least 1"),
        ({"events": {"weights": {"view": float("nan")}}}, "events.weights.view: must be a number"),
        ({"blend": {"weights": {"item_kn": 1.0}}}, "blend.weights.item_kn: unknown; did you"),
        ({"placements": {"p": {"exclude": ["crat"]}}}, "unknown event type 'crat'; did you mean"),
        ({"placements": {"p": {"sources": ["populr"]}}}, "p.sources: unknown source 'populr'; did"),
        (
            {"placements": {"p": {"ranking": "bland"}}},
            "p.ranking: unknown ranking 'bland'; did you",
        ),
        ({"placements": {"p": {"diversity": 1.5}}}, "p.diversity: must be from 0 to 1, got 1.5"),
        ({"index": {"recall_target": 97}}, "recall_target: a share of the exact ones, at most 1"),
        ({"session_index": {"hnsw_links": 1}}, "hnsw_links: must be at least 2, got 1"),
        ({"placements": {"p": {"explore": 1.5}}}, "p.explore: must be from 0 to 1, got 1.5"),
        ({"ranker": {"net_units": 0}}, "ranker.net_units: must be at least 1"),
        ({"ranker": {"net_weight": -0.5}}, "ranker.net_weight: must not be negative, got -0.5"),
        ({"ranker": {"hidden": 1}}, "ranker.hidden: a share of the items, below 1, got 1.0"),
        ({"placements": {"p": {"diversity": -1}}}, "p.diversity: must not be negative, got -1.0"),
        (
            {"placements": {"p": {"sources": ["popular"], "ranking": "transitions"}}},
            "p.sources: only the ranker asks them; with ranking = 'transitions' leave them out",
        ),
        ({"ranker": {"tail": 1.5}}, "ranker.tail: a share of the log, below 1, got 1.5"),
        ({"placements": []}, "placements: expected tables, got []"),
        ({"placements": {"basket": 3}}, "placements.basket: expected a table, got 3"),
        ({"embedding": 3}, "embedding: expected a table, got 3"),
        ({"retrieval": {"item_knn": "many"}}, "retrieval.item_knn: expected int, got 'many'"),
        ({"retrieval": {"item_knn": -1}}, "retrieval.item_knn: must not be negative, got -1"),
        ({"events": {"default_type": "gaze"}}, "events.default_type: no weight for 'gaze'"),
        ({"placements": {"p": {"exclude": "cart"}}}, "placements.p.exclude: expected a list"),
    ],
)
def test_mistakes_are_named(data: dict[str, object], text: str) -> None:
    """A wrong setting is refused by its full name, with the nearest known one."""
    with pytest.raises(ConfigError) as caught:
        config_from_dict(data)
    assert text in str(caught.value)


def test_a_placement_whose_source_is_off_is_refused() -> None:
    """Once it is known which are on, which for some depends on the log."""
    asked = config_from_dict({"placements": {"p": {"sources": ["own", "item_knn"]}}})
    text = "placements.p.sources: 'item_knn' is off; give it candidates: retrieval.item_knn = 30"
    with pytest.raises(ConfigError, match=text):
        asked.settled(simultaneous=False)
    assert asked.settled(simultaneous=True).placements["p"].sources == ("own", "item_knn")


def test_a_broken_file_is_named(tmp_path: Path) -> None:
    """Missing and malformed files are errors that name the file."""
    with pytest.raises(ConfigError, match=r"none\.toml: cannot be read"):
        load_config(tmp_path / "none.toml")
    (tmp_path / "bad.toml").write_text("a = ")
    with pytest.raises(ConfigError, match=r"bad\.toml: not valid TOML"):
        load_config(tmp_path / "bad.toml")


def test_what_is_auto_follows_from_the_log() -> None:
    """Where a session's events share one time no place weighs less; settling twice changes nothing,
    and what a person says stands."""
    ordered, unordered = (Config().settled(simultaneous=told) for told in (False, True))
    assert (ordered.session.order, ordered.ranker.target) == ("kept", "next-item")
    assert (unordered.session.order, unordered.ranker.target) == ("ignored", "rest-of-session")
    assert ordered.transitions == Config().transitions
    assert (unordered.session.decay, unordered.session_knn.decay) == (1.0, 0.0)
    assert (ordered.retrieval.item_knn, ordered.retrieval.popular) == (0, 0)
    assert (unordered.retrieval.item_knn, unordered.retrieval.popular) == (60, 10)
    assert (ordered.retrieval.own, unordered.retrieval.own) == (50, 100)
    assert (ordered.ranker.bagging_fraction, unordered.ranker.bagging_fraction) == (1.0, 0.5)
    assert (ordered.ranker.min_requests, unordered.ranker.min_requests) == (400, 1_000)
    assert (ordered.retrieval.co_viewed_now, unordered.retrieval.co_viewed_now) == (30, 0)
    assert Config().settled(simultaneous=False, timed=False).retrieval.co_viewed_now == 0
    assert (ordered.retrieval.newcomers, unordered.retrieval.newcomers) == (NEWCOMERS, 0)
    given = {"item_knn": 7, "popular": 0, "co_viewed_now": 9, "trending": 5, "newcomers": 4}
    live = [{"name": n, "kind": k, "ranking": True} for n, (_, k) in LIVE.items()]
    some = config_from_dict({"retrieval": given, "aggregate": live})
    for told in (False, True):
        found = some.settled(simultaneous=told).retrieval
        assert {name: getattr(found, name) for name in given} == given
        usual = config_from_dict({"retrieval": {"own": 50}, "ranker": {"bagging_fraction": 1.0}})
        stands = usual.settled(simultaneous=told)
        assert (stands.retrieval.own, stands.ranker.bagging_fraction) == (50, 1.0)
        assert ordered.settled(simultaneous=told) == ordered
        assert unordered.settled(simultaneous=told) == unordered
    told_so = config_from_dict({"session": {"order": "kept"}}).settled(simultaneous=True)
    assert told_so.session.decay == Config().session.decay
    few = config_from_dict({"session": {"max_events": 20}}).settled(simultaneous=True)
    assert (few.session.max_events, few.session.decay) == (20, 1.0)


def test_a_source_asks_what_is_kept_for_items() -> None:
    """An aggregate of the name that is of categories proposes none."""
    table = {"name": "trending", "kind": "decayed_count", "key": "category", "ranking": True}
    other = config_from_dict({"retrieval": {"trending": 9}, "aggregate": [table]})
    assert other.settled(simultaneous=False).retrieval.trending == 0


def test_a_list_of_what_trends_needs_to_be_told() -> None:
    """A placement of a live source where the ranker, and so the replay, is told of none."""
    hot = {"placements": {"hot": {"ranking": "trending"}}}
    untold = [{"name": "trending", "kind": "decayed_count", "ranking": False}]
    config_from_dict(hot).settled(simultaneous=False)
    with pytest.raises(ConfigError, match=r"placements.hot.ranking: 'trending' needs"):
        config_from_dict({**hot, "aggregate": untold}).settled(simultaneous=False)
