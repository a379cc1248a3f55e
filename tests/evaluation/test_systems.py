"""Every system is recommend, told what it should be told and nothing else."""

from dataclasses import replace

import pytest

from recsys.bundle import Bundle
from recsys.evaluation import systems
from recsys.evaluation.replay import Sample, samples
from recsys.evaluation.split import EvaluationError
from recsys.evaluation.systems import MIXES, ON_REQUEST, SYSTEMS, Panel, check_systems
from recsys.logs import Log
from recsys.recommend import Request, recommend
from recsys.session import Session, Trail

ITEMS = 24


def some(log: Log, bundle: Bundle) -> list[Sample]:
    return list(samples(log.frame, bundle.config))[:50]


def asked(panel: Panel, sample: Sample) -> tuple[dict[str, list[str]], Session, tuple[str, ...]]:
    """The lists of one sample in item ids, its session and what is barred."""
    session = sample.moment.session(panel.bundle.config)
    barred = panel.barred(session)
    lists, elapsed = panel.lists(sample, session, barred)
    assert elapsed > 0
    ids = (panel.bundle.items.ids(rows) for rows in lists)
    return dict(zip(panel.names, ids, strict=True)), session, barred


def test_every_system_is_spared_the_same_items(known: tuple[Bundle, Log]) -> None:
    """What the placement takes out of the full list stands in no other list either."""
    bundle, test = known
    panel = Panel(bundle, "discover", ITEMS, ON_REQUEST, [1.0, 60.0])
    for sample in some(test, bundle):
        lists, _, barred = asked(panel, sample)
        assert set(sample.seen) <= set(barred)
        for name, shown in lists.items():
            assert not set(shown) & set(barred), name
            assert len(shown) == ITEMS - len(barred), name


def test_each_system_is_recommend(known: tuple[Bundle, Log]) -> None:
    """Each list is what recommend answers when told so much and no more."""
    bundle, test = known
    panel = Panel(bundle, "discover", 5, ["blend", "item_knn"])
    for sample in some(test, bundle):
        lists, session, barred = asked(panel, sample)
        spared = Request(5, "discover", exclude=barred)

        def ranked(ranking: str, told: Session, spared: Request = spared) -> list[str]:
            config = bundle.config
            placement = replace(config.placements["discover"], ranking=ranking)
            config = replace(config, placements={"discover": placement})
            return recommend(replace(bundle, config=config), told, spared).item_ids

        user = Session(user_id=session.user_id)
        assert lists["full"] == recommend(bundle, session, Request(5, "discover")).item_ids
        stranger = replace(session, user_id=None, past=Trail())
        assert lists["session"] == recommend(bundle, stranger, spared).item_ids
        assert lists["popular"] == ranked("popular", Session())
        assert lists["batch: own"] == ranked("own", user)
        assert lists["batch: own answer"] == recommend(bundle, user, spared).item_ids
        assert lists["blend"] == ranked("blend", session)
        assert lists["item_knn"] == ranked("item_knn", session)


def test_lists_without_a_session_are_made_once(
    anonymous: tuple[Bundle, Log], monkeypatch: pytest.MonkeyPatch
) -> None:
    """For strangers only the full list is asked for anew each time."""
    bundle, test = anonymous
    panel = Panel(bundle, "discover", 5)
    calls = []

    def counted(*arguments: object) -> object:
        calls.append(arguments)
        return recommend(*arguments)  # type: ignore[arg-type]

    monkeypatch.setattr(systems, "recommend", counted)
    found = some(test, bundle)
    for sample in found:
        asked(panel, sample)
    assert len(calls) == len(found) + len(panel.mixes)
    assert len(panel.mixes) < len(MIXES)


def test_a_list_whose_room_is_used_up_is_asked_for_anew(
    known: tuple[Bundle, Log], monkeypatch: pytest.MonkeyPatch
) -> None:
    """When more is taken out than a kept list has room for, the list is still full and right."""
    bundle, test = known
    found = some(test, bundle)
    roomy = Panel(bundle, "discover", 3)
    expected = [asked(roomy, sample)[0] for sample in found]
    monkeypatch.setattr(systems, "ROOM", 1)
    tight = Panel(bundle, "discover", 3)
    assert [asked(tight, sample)[0] for sample in found] == expected


def test_unknown_systems_are_refused() -> None:
    """A system that is none is named, with the nearest one."""
    check_systems([*SYSTEMS, *ON_REQUEST])
    with pytest.raises(EvaluationError, match="'transition'; did you mean 'transitions'"):
        check_systems(["transition"])
