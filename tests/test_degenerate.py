"""Logs that teach next to nothing still train, are evaluated or refused in words, and serve."""

import json
import math
from collections.abc import Callable
from pathlib import Path

import polars as pl
import pytest

from recsys.bundle import Bundle
from recsys.cli import main
from recsys.events import Event
from recsys.logs import log_from_frame
from recsys.recommend import Request, recommend, similar
from recsys.registry import Registry
from recsys.session import Session

START = 1_700_000_000.0  # Unix seconds
HOURS = 3600.0
# A ranker is trained wherever there is anything to train it from.
CONFIG = """
[embedding]
embedding_size = 8
epochs = 3
[session_embedding]
embedding_size = 8
[ranker]
min_requests = 10
trees = 3
"""


def log(
    sessions: int, per_session: int, item: Callable[[int, int], object], **columns: object
) -> pl.DataFrame:
    """Sessions an hour apart, a click a second; item: of a session and a place in it."""
    at = [(s, k) for s in range(sessions) for k in range(per_session)]
    return pl.DataFrame(
        {
            "session_id": [f"s{s}" for s, _ in at],
            "item_id": [f"i{item(s, k)}" for s, k in at],
            "timestamp": [START + s * HOURS + k for s, k in at],
        }
    ).with_columns(**{name: pl.lit(value) for name, value in columns.items()})


LOGS = {
    "one session": log(1, 12, lambda _, k: k),
    "one event": log(1, 1, lambda _, k: k),
    "one item": log(60, 3, lambda *_: 0),
    "repeats of one item": log(60, 5, lambda s, _: s % 7),
    "two items alternating": log(80, 8, lambda s, k: (s + k) % 2),
    "sessions of length 1": log(300, 1, lambda s, _: s % 17),
    "one user": log(80, 6, lambda s, k: (s + k) % 9, user_id="u"),
    "no known users": log(80, 6, lambda s, k: (s + k) % 9),
    "all at the same time": log(80, 6, lambda s, k: (s + k) % 9, timestamp=START),
    "every item once": log(1_000, 4, lambda s, k: 4 * s + k),
    "every item once, alone": log(4_000, 1, lambda s, _: s),
}

CAUTIONS = {
    "one session": ["one session only", "no item occurs twice"],
    "one event": ["one session only", "one item only", "no session has a second event"],
    "one item": ["one item only"],
    "repeats of one item": ["no session holds two different items"],
    "two items alternating": [],
    "sessions of length 1": ["no session has a second event"],
    "one user": ["one user only"],
    "no known users": [],
    "all at the same time": ["all events have the same time"],
    "every item once": ["no item occurs twice"],
    "every item once, alone": ["no item occurs twice", "no session has a second event"],
}

# Where nothing can be asked, what the refusal says.
REFUSED = {
    "one session": "no session begins in the test part",
    "one event": "nothing precedes the test part",
    "sessions of length 1": "nothing to evaluate",
    "all at the same time": "nothing precedes the test part",
    "every item once, alone": "nothing to evaluate",
}


@pytest.fixture(scope="module", params=list(LOGS))
def name(request: pytest.FixtureRequest) -> str:
    """Which log."""
    text: str = request.param
    return text


@pytest.fixture(scope="module")
def folder(name: str, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A log and its configuration as files."""
    path = tmp_path_factory.mktemp("degenerate")
    (path / "recsys.toml").write_text(CONFIG)
    LOGS[name].write_parquet(path / "log.parquet")
    return path


@pytest.fixture(scope="module")
def bundle(folder: Path) -> Bundle:
    """What `recsys train` publishes."""
    paths = [str(folder / "log.parquet"), "--config", str(folder / "recsys.toml")]
    assert main(["train", *paths, "--data-dir", str(folder)]) == 0
    return Registry(folder / "bundles").load()


def visitors(bundle: Bundle) -> list[Session]:
    """Nobody, strangers with and without known items, known and unknown users."""
    items = bundle.items.ids(range(min(3, len(bundle.items))))
    users = bundle.users.ids(range(min(1, len(bundle.users))))

    def touched(*clicked: str, user: str | None = None) -> Session:
        events = [Event("view", "s", i, timestamp=float(k)) for k, i in enumerate(clicked)]
        return Session.from_events(events, user_id=user)

    return [
        Session(),
        touched("never seen"),
        touched(items[0]),
        touched(*items, items[0]),
        Session(user_id="never seen"),
        *(Session(user_id=user) for user in users),
        *(touched(items[-1], user=user) for user in users),
    ]


def test_every_visitor_gets_an_honest_list(name: str, bundle: Bundle) -> None:
    """In every placement: items of the log, each once, none that is out, as many as there are."""
    known = set(LOGS[name]["item_id"])
    for placement, rules in bundle.config.placements.items():
        for session in visitors(bundle):
            answer = recommend(bundle, session, Request(n=20, placement=placement))
            shown = set(answer.item_ids)
            out = known & set(session.current.types) if "any" in rules.exclude else set()
            if rules.exclude_seen and (session.user_id or "") in bundle.users:
                theirs = LOGS[name].filter(pl.col("user_id") == session.user_id)
                out |= set(theirs["item_id"])
            assert len(shown) == len(answer.item_ids) == min(20, len(known) - len(out))
            assert shown <= known - out
            assert all(map(math.isfinite, answer.scores))
            assert answer.scores == sorted(answer.scores, reverse=True)


def test_nobody_gets_the_popular_items(name: str, bundle: Bundle) -> None:
    """Without a session the list says that it is the popular one."""
    assert recommend(bundle, Session(), Request()).tier == "popular"
    assert recommend(bundle, Session(user_id="never seen"), Request()).tier == "popular"


def test_similar_items_leave_the_item_out(name: str, bundle: Bundle) -> None:
    """An item is not like itself; where it is the only one the list is empty."""
    (first,) = bundle.items.ids([0])
    answer = similar(bundle, first)
    assert first not in answer.item_ids
    assert len(answer.item_ids) == min(20, len(bundle.items) - 1)


def test_a_note_for_every_way_to_be_degenerate(name: str) -> None:
    """Loading tells what the log cannot teach, and nothing else of that kind."""
    loaded = log_from_frame(LOGS[name]).notes
    told = [note for note in loaded if note.startswith(("one ", "no session", "no item", "all "))]
    assert len(told) == len(CAUTIONS[name])
    assert all(any(note.startswith(text) for note in told) for text in CAUTIONS[name])


def evaluate(folder: Path, *options: str) -> int:
    """`recsys evaluate` on the log of a folder."""
    paths = [str(folder / "log.parquet"), "--config", str(folder / "recsys.toml")]
    return main(["evaluate", *paths, *options, "--json"])


def test_evaluation_measures_or_says_why_not(
    name: str, folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Figures are fractions; where nothing can be looked for, status 2 with the reason."""
    status = evaluate(folder)
    printed = capsys.readouterr()
    if name in REFUSED:
        assert status == 2
        assert REFUSED[name] in " ".join(printed.err.split())
        return
    assert status == 0
    report = json.loads(printed.out.splitlines()[-1])
    assert report["samples"] > 0
    for figures in report["systems"].values():
        assert 0 <= figures["recall@20"] <= 1
        assert 0 <= figures["ndcg@20"] <= 1


@pytest.mark.parametrize("only", ["one item", "repeats of one item"])
def test_a_session_of_one_item_has_no_rest(
    only: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Looking for items that are new to the session is refused where none can be."""
    (tmp_path / "recsys.toml").write_text(CONFIG)
    LOGS[only].write_parquet(tmp_path / "log.parquet")
    assert evaluate(tmp_path, "--protocol", "rest-of-session") == 2
    assert "nothing to evaluate" in " ".join(capsys.readouterr().err.split())
