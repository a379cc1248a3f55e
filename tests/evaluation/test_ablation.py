"""What lists are worth without one source or group of features."""

import dataclasses
from typing import Any

import pytest
from rich.console import Console

from recsys import features, retrieval
from recsys.bundle import Bundle
from recsys.evaluation import ablation as module
from recsys.evaluation.ablation import Ablation, ablation
from recsys.evaluation.split import split
from recsys.evaluation.tables import ablation_table
from recsys.logs import Log, log_from_frame
from recsys.metrics import METRICS
from recsys.recommend import Request
from recsys.session import Session
from recsys.training import train
from tests.synthetic import small_config
from tests.test_point_in_time import LIVE
from tests.test_training import RANKED, circle

# Where the walk goes on is known to the transitions alone.
ONLY = dict.fromkeys(retrieval.SOURCES, 0) | {"transitions": 3, "popular": 1}


@pytest.fixture(scope="module")
def parts() -> tuple[Bundle, Log, Log]:
    config = small_config(**RANKED, retrieval=ONLY, aggregate=LIVE[:1])
    cut = split(log_from_frame(circle(400)), "0.2")
    return train(cut.train, config), cut.train, cut.test


def found(parts: tuple[Bundle, Log, Log]) -> Ablation | None:
    return ablation(*parts, protocol="next-item", min_prefix=1, at=1, placement="continue", seed=1)


@pytest.fixture(scope="module")
def without(parts: tuple[Bundle, Log, Log]) -> Ablation:
    """Its outcome; each takes a dozen trainings."""
    outcome = found(parts)
    assert outcome is not None
    return outcome


def rows_of(without: Ablation) -> dict[str, dict[str, Any]]:
    return {row["off"]: row for row in without.parts}


def test_what_is_needed_is_missed(without: Ablation) -> None:
    """Without the one source that proposes the right item lists lose, and certainly so."""
    rows = rows_of(without)
    assert rows["transitions"]["group"] == "source"
    change = rows["transitions"]["difference"]["hr@1"]
    assert change["high"] < -0.1
    assert change["low"] <= change["value"] <= change["high"]
    assert rows["popular"]["difference"]["hr@1"]["value"] > -0.1


def test_every_part_that_is_on_has_a_row(without: Ablation, parts: tuple[Bundle, Log, Log]) -> None:
    """Sources with candidates and all groups of features there are, each with all figures."""
    rows = rows_of(without)
    absent = {"whole", "past", "votes", "kinds", "terms"}  # of baskets, and of a shop with prices
    groups = features.groups_of(parts[0].config).keys() - absent
    assert set(rows) == {"transitions", "popular", *groups}
    for row in rows.values():
        assert set(row["figures"]) == {f"{name}@1" for name in METRICS} == set(row["difference"])


def test_groups_hold_every_feature_that_no_source_gives() -> None:
    """With the sources' own, the groups make up the feature table."""
    grouped = [name for group in features.GROUPS.values() for name in group]
    own = set().union(*map(features.source_features, retrieval.SOURCES))
    assert len(grouped) == len(set(grouped))
    assert set(grouped) | own == set(features.FEATURES)


def test_without_a_ranker_there_is_nothing_to_leave_out(parts: tuple[Bundle, Log, Log]) -> None:
    """A bundle that ranks by the blend has no rows."""
    bundle, train_log, test_log = parts
    config = dataclasses.replace(
        bundle.config, ranker=dataclasses.replace(bundle.config.ranker, enabled=False)
    )
    assert found((train(train_log, config), train_log, test_log)) is None


def test_differences_are_from_what_all_parts_give(without: Ablation) -> None:
    """The figures of nothing off, of as many lists, stand beside them."""
    assert 0 < without.lists <= 4000
    assert 0 < without.requests <= 12_000
    assert without.microseconds > 0
    for row in without.parts:
        for name, value in without.figures.items():
            change = row["figures"][name] - value
            assert row["difference"][name]["value"] == pytest.approx(change)


def test_every_variant_is_asked_first_in_turn(
    parts: tuple[Bundle, Log, Log], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Else the later ones would seem faster."""
    first, variants, last = [], set(), None
    original = module._timed

    def watched(bundle: Bundle, session: Session, request: Request) -> tuple[list[str], float]:
        nonlocal last
        variants.add(id(bundle))
        if session is not last:
            first.append(id(bundle))
        last = session
        return original(bundle, session, request)

    monkeypatch.setattr(module, "_timed", watched)
    outcome = found(parts)
    assert outcome is not None
    assert len(first) == outcome.lists
    counts = [first.count(variant) for variant in variants]
    assert len(counts) == len(outcome.parts) + 1
    assert max(counts) - min(counts) <= 1


def test_a_terminal_of_80_columns_shows_all_of_it(without: Ablation) -> None:
    """No name and no figure is cut off."""
    console = Console(width=80, record=True)
    console.print(ablation_table(without))
    shown = console.export_text()
    assert "…" not in shown.replace(" … ", "")
    for row in without.parts:
        assert f" {row['off']} " in shown
