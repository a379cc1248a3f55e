"""What a report says of the lists is what a person would count."""

import numpy as np
import polars as pl
import pytest

from recsys.bundle import Bundle
from recsys.evaluation import findings
from recsys.evaluation.evaluate import evaluate
from recsys.evaluation.replay import samples
from recsys.evaluation.systems import Panel, mix_name
from recsys.evaluation.tally import Answer, Figures, Tally, item_vectors
from recsys.logs import Log, log_from_frame
from recsys.metrics import BUCKETS, METRICS, popularity_buckets
from recsys.training import train
from tests.synthetic import log_frame, small_config, two_worlds

NAMES = ["popular", "session", "full", *(mix_name(m) for m in findings.MIXES if m != "popular")]


def answer(number: int, places: dict[str, int], **facts: object) -> Answer:
    """A sample that looks for item 0: where each system has it in its list of three, 0 nowhere."""
    lists = []
    for name in NAMES:
        rows = [1, 2, 3]
        if place := places.get(name, 0):
            rows[place - 1] = 0
        lists.append(rows)
    kept: dict[str, object] = {
        "session": f"s{number}",
        "cluster": f"s{number}",
        "known": False,
        "prefix": 1,
        "wanted": [0],
        "first": 0,
        "repeated": False,
        "latency_ns": 1000,
    }
    return Answer(**{**kept, **facts}, lists=lists)  # type: ignore[arg-type]


def counted(bundle: Bundle, answers: list[Answer]) -> Figures:
    tally = Tally(bundle, [3], NAMES)
    for found in answers:
        tally.add(found)
    figures = tally.figures()
    assert figures is not None
    return figures


def test_the_strongest_batch(known: tuple[Bundle, Log]) -> None:
    """The best mix of known users and the best of strangers answer together as batch."""
    users = [
        answer(n, {mix_name("blend"): 1, mix_name("own"): 2, "full": 1}, known=True)
        for n in range(4)
    ]
    strangers = [answer(n + 4, {mix_name("recent"): 2, "popular": 3}) for n in range(2)]
    figures = counted(known[0], [*users, *strangers])
    batch = findings.strongest_batch(figures)
    assert (batch.metric, batch.known, batch.strangers) == ("ndcg@3", "blend", "recent")
    assert batch.mixes["known"]["blend"] == 1.0
    assert batch.mixes["strangers"] == {
        "popular": pytest.approx(0.5),
        "recent": pytest.approx(1 / np.log2(3)),
    }
    whole = findings.with_batch(figures, batch, [], {})
    assert whole.names == ["popular", "batch", "session", "full"]
    means = findings.means(whole, "batch")
    assert means["mrr@3"] == pytest.approx((4 * 1 + 2 * 0.5) / 6)
    # Users were shown 0, 2, 3 and strangers 1, 0, 3.
    assert means["coverage@3"] == pytest.approx(4 / len(known[0].items))


def test_batch_is_never_weaker_than_popular(known: tuple[Bundle, Log]) -> None:
    """What full is compared with is at least as good as the popular list, and as every mix."""
    report = evaluate(*known, at=(5,))
    batch = report.systems["batch"]["ndcg@5"]
    assert batch >= report.systems["popular"]["ndcg@5"]
    assert batch == pytest.approx(max(report.batch.mixes["known"].values()))
    assert set(report.batch.mixes["known"]) == set(findings.MIXES)


def test_slices_add_up(known: tuple[Bundle, Log]) -> None:
    """The parts of every slice hold all samples once, and their means make up the whole."""
    report = evaluate(*known, at=(5,), slices=True)
    assert set(report.slices) == set(findings.SLICES)
    for kind, parts in report.slices.items():
        assert sum(part.samples for part in parts.values()) == report.samples, kind
        for system in ("batch", "session", "full"):
            total = sum(part.samples * part.systems[system]["mrr@5"] for part in parts.values())
            assert total / report.samples == pytest.approx(report.systems[system]["mrr@5"])


def test_slices_by_hand(known: tuple[Bundle, Log]) -> None:
    """Each sample falls where its session length, visitor, item and repeat put it."""
    bundle = known[0]
    rare, unseen = int(np.argmin(bundle.popularity.counts)), len(bundle.items)
    figures = counted(
        bundle,
        [
            answer(0, {"full": 1}, prefix=1, repeated=True),
            answer(1, {"full": 1}, prefix=4, known=True, cluster="u"),
            answer(2, {}, prefix=12, known=True, cluster="u", wanted=[unseen], first=unseen),
            answer(3, {}, prefix=5, wanted=[rare], first=rare),
        ],
    )
    rows = {
        kind: {
            name: figures.facts.select(pl.arg_where(condition)).to_series().to_list()
            for name, condition in parts.items()
        }
        for kind, parts in findings.SLICES.items()
    }
    assert rows["session length"] == {"1": [0], "2": [], "3-4": [1], "5-8": [3], "9+": [2]}
    assert rows["visitor"] == {"known to training": [1, 2], "new": [0, 3]}
    assert rows["repeat"] == {"new to the session": [1, 2, 3], "again": [0]}
    assert rows["item looked for"]["never in training"] == [2]
    batch = findings.strongest_batch(figures)
    whole = findings.with_batch(figures, batch, [], {})
    part = findings.slices(whole, 1)["visitor"]["known to training"]
    assert (part.samples, part.clusters) == (2, 1)
    assert part.systems["full"]["hr@3"] == 0.5
    assert part.lift["hr@3"].difference.value == 0.5


def test_rare_items() -> None:
    """An item of little interest in training is rare, one of none is unseen."""
    facts = pl.DataFrame({"interest": [0.0, 1.0, 4.9, 5.0, 80.0]})
    parts = findings.SLICES["item looked for"]
    found = {
        name: facts.filter(condition)["interest"].to_list() for name, condition in parts.items()
    }
    assert found == {
        "in training": [5.0, 80.0],
        "rare in training": [1.0, 4.9],
        "never in training": [0.0],
    }


def test_figures_against_brute_force(known: tuple[Bundle, Log]) -> None:
    """Make-up, coverage and calibration equal a plain count over the lists."""
    bundle, test = known
    report = evaluate(bundle, test, at=(4,), placement="basket")
    panel = Panel(bundle, "basket", 4)
    bucket = popularity_buckets(bundle.popularity.counts)
    share = bundle.popularity.counts / bundle.popularity.counts.sum()
    vectors = item_vectors(bundle)
    lists, wanted, novelty, diversity = [], [], [], []
    for sample in samples(test.frame, bundle.config):
        session = sample.moment.session(bundle.config)
        barred = panel.barred(session)
        target = next((item for item in sample.upcoming if item not in barred), None)
        if target is None:
            continue
        shown = panel.lists(sample, session, barred)[0][panel.names.index("full")]
        lists.append(shown)
        wanted.append(panel.row_of[target])
        novelty.append(np.mean([-np.log2(share[row]) for row in shown]))
        pairs = [vectors[i] @ vectors[j] for i in shown for j in shown if i < j]
        diversity.append(1 - np.mean(pairs))
    full = report.systems["full"]
    assert full["novelty@4"] == pytest.approx(np.mean(novelty), rel=1e-5)
    assert full["diversity@4"] == pytest.approx(np.mean(diversity), rel=1e-4)
    assert full["coverage@4"] == pytest.approx(len(set(sum(lists, ()))) / len(bundle.items))
    places = [bucket[row] for shown in lists for row in shown]
    for k, name in enumerate(BUCKETS):
        assert report.calibration.systems["full"][name] == pytest.approx(
            places.count(k) / len(places)
        )
        chosen = [bucket[row] for row in wanted].count(k) / len(wanted)
        assert report.calibration.chosen[name] == pytest.approx(chosen)


def test_systems_on_request(anonymous: tuple[Bundle, Log]) -> None:
    """Asked for by name or all together; those with nothing to say are named in a note."""
    some = evaluate(*anonymous, systems=["item_knn", "full"])
    assert list(some.systems) == ["popular", "batch", "session", "full", "item_knn"]
    every = evaluate(*anonymous, systems=["all"])
    assert {"blend", "transitions", "own", "recent"} <= set(every.systems)
    assert every.systems["item_knn"] == some.systems["item_knn"]
    assert every.systems["own"] == every.systems["popular"]
    (note,) = (n for n in every.notes if "nothing to say" in n)
    assert "own" in note
    assert "item_knn" not in note.replace("item_knn_past", "")


def test_warnings(anonymous: tuple[Bundle, Log]) -> None:
    """A log where figures mean little is said to be one, and why."""
    bundle, test = anonymous
    (stranger,) = evaluate(bundle, test, at=(5,)).warnings
    assert "training knew no user" in stranger
    small = " ".join(evaluate(bundle, test, at=(24,), max_sessions=9).warnings)
    for text in ("only 27 lists", "only 9 visitors", "the catalogue holds 24 items"):
        assert text in small


def test_warning_of_repeats() -> None:
    """Where people only come back to the same item, that is said."""
    rows: list[dict[str, object]] = [
        {"session_id": f"s{k // 3}", "item_id": f"i{k // 3 % 4}"} for k in range(300)
    ]
    log = log_from_frame(log_frame(rows))
    warned = evaluate(train(log, small_config()), _later(log), at=(1,)).warnings
    assert any("was in its session already" in warning for warning in warned)


def test_warning_of_a_new_catalogue(anonymous: tuple[Bundle, Log]) -> None:
    """Where training saw nothing of what is looked for, that is said."""
    bundle, test = anonymous
    renamed = test.frame.with_columns(item_id=pl.lit("new-") + pl.col("item_id"))
    warned = evaluate(bundle, log_from_frame(renamed)).warnings
    assert any("nothing could be found" in warning for warning in warned)


def test_without_a_session_embedding() -> None:
    """Likeness of items is then that of the ALS vectors, brought to unit length."""
    alone = two_worlds(60).with_columns(
        user_id="session_id", session_id=pl.format("s{}", pl.int_range(pl.len()))
    )
    bundle = train(log_from_frame(alone), small_config())
    lengths = np.linalg.norm(item_vectors(bundle), axis=1)
    assert not len(bundle.session_embedding.item_vectors)
    np.testing.assert_allclose(lengths, 1.0, rtol=1e-5)


def test_all_metrics_have_a_lift(anonymous: tuple[Bundle, Log]) -> None:
    """Quality has a lift, the make-up of lists has none: more of it is not better in itself."""
    report = evaluate(*anonymous, at=(2, 5))
    assert set(report.lift) == {f"{name}@{k}" for name in METRICS for k in (2, 5)}


def _later(log: Log) -> Log:
    frame = log.frame.with_columns(
        timestamp=pl.col("timestamp") + 1e6, session_id=pl.lit("t") + pl.col("session_id")
    )
    return log_from_frame(frame)
