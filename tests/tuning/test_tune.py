"""Tuning as a whole: what is chosen, on what, and what happens when it is stopped."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest

from recsys import blend
from recsys.config import Config, Placement
from recsys.evaluation.replay import Moment
from recsys.evaluation.split import EvaluationError, split
from recsys.events import Event
from recsys.interactions import fold
from recsys.logs import Log, log_from_frame
from recsys.recommend import UnknownPlacementError
from recsys.session import Session
from recsys.training import train
from recsys.tuning import fits as fits_module
from recsys.tuning import space
from recsys.tuning import tune as tuning
from recsys.tuning.fits import Fits
from recsys.tuning.questions import Exam, exams
from recsys.tuning.space import with_values
from recsys.tuning.stages import Found
from recsys.tuning.trials import open_journal
from recsys.tuning.tune import Aim, Tuned, tune
from tests.synthetic import log_frame, returning, small_config
from tests.test_training import RANKED, circle


@pytest.fixture(scope="module")
def clicks() -> Log:
    """Sessions that walk round a circle; enough for a ranker."""
    return log_from_frame(circle(300, items=40))


@pytest.fixture(scope="module")
def users() -> Log:
    """Known users with a past, too few events for a ranker."""
    return log_from_frame(returning(60))


BAD = {"session_knn": {"backward_decay": 0.0, "forward_decay": 0.0}, "transitions": {"backward": 5}}


def ranked_config() -> Config:
    """Trains in a moment, and has sources that can be better."""
    few = {**RANKED["ranker"], "trees": 5, "requests": 100}
    sources = {"session_embedding": 0, "item_knn": 0, "recent": 0}
    tables = {**RANKED, **BAD, "ranker": few, "retrieval": sources, "training": {"threads": 1}}
    return small_config(**tables)


def blend_config() -> Config:
    """Trains in a moment; there is no ranker in it."""
    return small_config(training={"threads": 1}, ranker={"enabled": False})


KNN = Aim(placement="knn", tail="20%")


def knn_config() -> Config:
    """Has a placement that asks nothing but session-kNN, and no ranker."""
    off = replace(ranked_config().ranker, enabled=False)
    return replace(
        ranked_config(), ranker=off, placements={"knn": Placement(ranking="session_knn")}
    )


def run(log: Log, config: Config, path: Path, **options: Any) -> Tuned:
    return tune(
        log,
        config,
        open_journal(path / "trials"),
        **{"trials": 3, "aim": Aim(tail="20%"), **options},
    )


def plain(found: list[Found]) -> list[Found]:
    """Without what a clock measured."""
    return [replace(f, microseconds=None) for f in found]


@pytest.fixture(scope="module")
def ranked(clicks: Log, tmp_path_factory: pytest.TempPathFactory) -> Tuned:
    return run(clicks, ranked_config(), tmp_path_factory.mktemp("ranked"), trials=4)


def test_a_log_with_a_ranker_has_its_sources_and_ranker_tuned(ranked: Tuned) -> None:
    """Each source that proposes anything, what each is worth in the list, then the ranker."""
    stages = [found.stage for found in ranked.found]
    assert stages == ["transitions", "session_knn", "embedding", "sources", "ranker"]
    weighed = {source.source for source in ranked.sources}
    assert {"transitions", "session_knn", "session_embedding", "popular"} <= weighed
    assert not weighed & {"item_knn_past", "own"}  # nobody here has a past


def test_what_is_found_is_better_on_questions_that_no_trial_saw(ranked: Tuned) -> None:
    """A planted bad setting is found, with its gain and interval; the source alone is better."""
    found = next(f for f in ranked.found if f.stage == "session_knn")
    assert found.kept
    assert found.gain is not None
    assert found.gain.low is not None
    assert found.gain.low > 0
    assert found.marks is not None
    assert found.marks[1] > found.marks[0]
    assert all(found.before[name] != value for name, value in found.values.items())


def test_a_log_without_a_ranker_has_its_blend_tuned(users: Log, tmp_path: Path) -> None:
    """The embedding and the neighbours that it ranks by, then its weights."""
    tuned = run(users, blend_config(), tmp_path)
    assert [found.stage for found in tuned.found] == ["item_knn", "embedding", "blend"]


def test_a_blend_that_minds_order_has_its_sources_tuned(clicks: Log, tmp_path: Path) -> None:
    """Without a ranker those that order tells of are looked at alone, then weighed by the blend."""
    tuned = run(clicks, blend_config(), tmp_path)
    stages = [found.stage for found in tuned.found]
    assert {*blend.IN_ORDER} <= {*stages}
    weighed = next(found for found in tuned.found if found.stage == "blend")
    assert not {setting.name for setting in space.BLEND_IN_ORDER}.isdisjoint(weighed.before)


def test_the_dear_source_is_looked_at_before_it_is_fitted(
    clicks: Log, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A trial of the session embedding begins with one epoch, and goes on only if that is good."""
    epochs: list[int] = []
    original = fits_module.FITS["session_embedding"]

    def watched(data: Any, config: Config, ordered: bool) -> Any:
        epochs.append(config.session_embedding.epochs)
        return original(data, with_values(config, {"session_embedding.negatives": 16}), ordered)

    monkeypatch.setitem(fits_module.FITS, "session_embedding", watched)
    config = replace(ranked_config(), placements={"p": Placement(ranking="session_embedding")})
    tuned = run(clicks, config, tmp_path, aim=Aim(placement="p", tail="20%"), trials=12)
    assert [found.stage for found in tuned.found] == ["session_embedding"]
    searched = epochs[: 1 + max(k for k, n in enumerate(epochs) if n == 1)]
    assert searched[0] == 1
    assert searched.count(1) == 11
    assert len(searched) < 22


def test_a_placement_of_one_source_has_that_source_tuned(clicks: Log, tmp_path: Path) -> None:
    """Nothing else has a say in its lists."""
    tuned = run(clicks, knn_config(), tmp_path, aim=KNN)
    assert [found.stage for found in tuned.found] == ["session_knn"]


def test_the_same_trials_give_the_same_result(users: Log, tmp_path: Path) -> None:
    """In one go, or stopped and taken up again."""
    once = run(users, blend_config(), tmp_path / "once", trials=4)
    run(users, blend_config(), tmp_path / "twice", trials=2)
    twice = run(users, blend_config(), tmp_path / "twice", trials=4)
    assert once.config == twice.config
    assert plain(once.found) == plain(twice.found)
    assert once.gain == twice.gain


def test_what_is_not_better_as_a_whole_is_not_kept(
    users: Log, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Then the start stays, and the notes say so."""

    def worse(stage: Any, config: Config, trials: Any, clock: Any) -> Found:
        found = Found(stage.name, 1, {"embedding.epochs": 9}, {"embedding.epochs": 5})
        return replace(found, gain=tuning.Estimate(0.1, 0.0, 0.2))

    monkeypatch.setattr(tuning, "search", worse)
    monkeypatch.setattr(
        Exam, "compare", lambda *_args: tuning.Estimate(-0.001, -0.01, 0.01), raising=True
    )
    tuned = run(users, blend_config(), tmp_path)
    assert tuned.config == tuned.start == blend_config().settled(simultaneous=False)
    assert not tuned.better
    assert any("not better" in note for note in tuned.notes)


def test_a_budget_of_no_time_is_refused(users: Log, tmp_path: Path) -> None:
    """Where nothing could be tried, the error says how much time it takes, and nothing is kept."""
    with pytest.raises(EvaluationError, match="no time was left to try anything; give 1 or more"):
        run(users, blend_config(), tmp_path, trials=None, minutes=0.0001)
    for minutes in (0.0, -3.0):
        with pytest.raises(EvaluationError, match="--minutes: must be above 0"):
            run(users, blend_config(), tmp_path, trials=None, minutes=minutes)
    with pytest.raises(EvaluationError, match="--trials: must be at least 1"):
        run(users, blend_config(), tmp_path, trials=0)


def test_stages_without_time_are_named(
    users: Log, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What was not tuned for want of time is in the notes."""
    monkeypatch.setattr(tuning.Budget, "share", lambda *_args: 0.0)
    tuned = run(users, blend_config(), tmp_path, trials=None, minutes=1.0)
    assert [found.trials for found in tuned.found] == [0, 0, 0]
    assert not tuned.better
    assert any("no time to tune item_knn, embedding, blend:" in note for note in tuned.notes)


def test_users_alone_are_tuned_for(users: Log, tmp_path: Path) -> None:
    """With the protocol of user-item data the questions are known users before they come."""
    tuned = run(users, blend_config(), tmp_path, aim=Aim(protocol="user"))
    assert tuned.aim.mark == "mean of recall@20 and ndcg@20"
    assert {found.stage for found in tuned.found} == {"item_knn", "embedding", "blend"}
    bare = log_from_frame(users.frame.drop("timestamp").with_columns(session_id="user_id"))
    assert run(bare, blend_config(), tmp_path / "bare", aim=Aim(protocol="user")).found


def test_an_interrupt_keeps_what_was_found(
    clicks: Log, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Ctrl-C ends the search; the best so far is the result, and the next run goes on from it."""
    original = Exam.of_source
    exams_held: list[Exam] = []

    def interrupted(self: Exam, *rest: Any) -> Any:
        exams_held.append(self)
        if len(exams_held) == 5:
            raise KeyboardInterrupt
        return original(self, *rest)

    monkeypatch.setattr(Exam, "of_source", interrupted)
    tuned = run(clicks, knn_config(), tmp_path, aim=KNN, trials=8)
    assert tuned.partial
    assert tuned.better
    assert tuned.gain is None
    assert [found.trials for found in tuned.found] == [4]
    monkeypatch.undo()
    again = run(clicks, knn_config(), tmp_path, aim=KNN, trials=8)
    straight = run(clicks, knn_config(), tmp_path / "straight", aim=KNN, trials=8)
    assert plain(again.found) == plain(straight.found)
    assert not again.partial


# What is fitted and judged.


def fitted_differs(log: Log, other: Log, config: Config) -> list[str]:
    """Arrays of a bundle fitted on the head that differ between two logs with the same head."""
    bundles = []
    for one in (log, other):
        parts = split(one, "10%")
        start = train(parts.train, config)
        bundles.append(
            Fits(start, tuning.fold(parts.train.frame, config.events)).bundle(
                with_values(config, {"transitions.window": 2, "session_knn.sessions_per_item": 7}),
                "transitions",
                "session_knn",
            )
        )
    first, second = bundles
    return [
        name
        for part in ("transitions", "session_knn", "popularity", "item_knn", "embedding", "history")
        for name, value in vars(getattr(first, part)).items()
        if not np.array_equal(value, vars(getattr(second, part))[name])
    ]


def other_tail(log: Log) -> Log:
    """The same log with other items in its last tenth."""
    cut = split(log, "10%").cut
    item = pl.when(pl.col("timestamp") >= cut).then(pl.lit("i0")).otherwise(pl.col("item_id"))
    return replace(log, frame=log.frame.with_columns(item_id=item))


def test_nothing_of_the_tail_reaches_what_is_fitted(users: Log) -> None:
    """With another tail every fitted array is the same."""
    assert fitted_differs(users, other_tail(users), blend_config()) == []


def test_a_fit_on_the_whole_log_is_refused(users: Log, monkeypatch: pytest.MonkeyPatch) -> None:
    """A planted leak: what a trial fits on is not what precedes the tail."""
    monkeypatch.setattr(tuning, "fold", lambda _frame, config: fold(users.frame, config))
    with pytest.raises(EvaluationError, match="not those that precede the tail"):
        fitted_differs(users, other_tail(users), blend_config())


def test_models_that_saw_the_tail_are_refused(
    users: Log, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A planted leak: the cut leaves the whole log in the head."""
    original = tuning.split

    def leaking(log: Log, test: str) -> Any:
        return replace(original(log, test), train=log)

    monkeypatch.setattr(tuning, "split", leaking)
    with pytest.raises(EvaluationError, match="it has seen the future"):
        run(users, blend_config(), tmp_path)


def knows_the_future(exam: Exam, tail: Log, config: Config) -> list[int]:
    """Rows of the tail at which a question tells more than the events up to there."""
    rows = []
    for question in exam.questions:
        known = set(tail.frame["item_id"].head(question.moment.row + 1))
        session = question.moment.session(config)
        if not set(session.current.sequence) | set(session.past.sequence) <= known:
            rows.append(question.moment.row)
    return rows


@pytest.fixture(scope="module")
def unique() -> Log:
    """Every event is on an item of its own, but for the head, which has them all."""
    head = [{"session_id": f"h{k // 2}", "item_id": f"i{k}"} for k in range(200)]
    tail = [{"session_id": f"t{k // 5}", "item_id": f"i{k}"} for k in range(100)]
    return log_from_frame(log_frame([*head, *tail]))


@pytest.fixture(scope="module")
def asked(unique: Log) -> tuple[Exam, Exam, Log, Config]:
    parts = split(unique, "33.3%")
    config = blend_config()
    both = exams(train(parts.train, config), parts.test, "next-item", "default", 1)
    return *both, parts.test, config


def test_questions_know_nothing_of_what_comes(asked: tuple[Exam, Exam, Log, Config]) -> None:
    """Sessions hold items up to their moment only, and never what is looked for."""
    search, proof, tail, config = asked
    assert len(search) >= 20
    assert knows_the_future(search, tail, config) == []
    assert knows_the_future(proof, tail, config) == []


def test_a_question_that_knows_what_comes_is_caught(
    asked: tuple[Exam, Exam, Log, Config], monkeypatch: pytest.MonkeyPatch
) -> None:
    """A planted leak: the session holds the next event too."""
    search, _, tail, config = asked
    items = tail.frame["item_id"]

    def leaking(self: Moment, config: Config) -> Session:
        event = Event("view", self.event.session_id, items[self.row + 1], timestamp=1e12)
        return Session.from_events([*self.events, event], config=config.session)

    monkeypatch.setattr(Moment, "session", leaking)
    assert len(knows_the_future(search, tail, config)) == len(search)


def test_no_visitor_is_asked_for_the_search_and_the_proof(users: Log) -> None:
    """Else a gain would be measured on what it was chosen by."""
    parts = split(users, "40%")
    start = train(parts.train, blend_config())
    search, proof = exams(start, parts.test, "next-item", "default", 1)
    of_search = {question.visitor for question in search.questions}
    of_proof = {question.visitor for question in proof.questions}
    assert of_search
    assert of_proof
    assert not of_search & of_proof


def test_a_fit_is_the_one_that_training_makes(users: Log) -> None:
    """A source fitted by a trial is what `recsys train` fits with the same settings."""
    config = with_values(blend_config(), {"item_knn.degree_power": 0.5, "embedding.reg": 3.0})
    start = train(users, blend_config())
    tried = Fits(start, fold(users.frame, config.events)).bundle(config, *fits_module.FITS)
    trained = train(users, config)
    assert np.array_equal(tried.item_knn.similarities, trained.item_knn.similarities)
    assert np.array_equal(tried.embedding.item_factors, trained.embedding.item_factors)


# Logs that cannot be tuned on.


@pytest.mark.parametrize(
    ("rows", "text"),
    [
        ([{"session_id": "s", "item_id": "i"}], "too short to tune on"),
        ([{"session_id": f"s{k}", "item_id": "i"} for k in range(50)], "nothing to tune on"),
        ([{"session_id": f"s{k}", "item_id": f"i{k}"} for k in range(50)], "sessions of one item"),
    ],
)
def test_a_log_with_nothing_to_learn_from_is_refused(
    rows: list[dict[str, object]], text: str, tmp_path: Path
) -> None:
    """One event, one item, sessions of one: the error says what is missing."""
    with pytest.raises(EvaluationError, match=text):
        run(log_from_frame(log_frame(rows)), blend_config(), tmp_path)


def test_one_item_again_and_again_keeps_the_start(tmp_path: Path) -> None:
    """There is nothing to choose, so nothing is better."""
    rows: list[dict[str, object]] = [
        {"session_id": f"s{k // 3}", "item_id": "i"} for k in range(300)
    ]
    tuned = run(log_from_frame(log_frame(rows)), blend_config(), tmp_path)
    assert not tuned.better


def test_an_impossible_aim_is_refused_before_any_work(users: Log, tmp_path: Path) -> None:
    """With the nearest known name."""
    with pytest.raises(UnknownPlacementError, match="did you mean 'default'"):
        run(users, blend_config(), tmp_path, aim=Aim(placement="defalt"))
