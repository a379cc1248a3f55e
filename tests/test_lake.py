"""Files by the hour: each event once, in the hour of its time, whatever was interrupted."""

import multiprocessing
from pathlib import Path
from typing import Any

import polars as pl
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from recsys import lake as module
from recsys.events import Event
from recsys.lake import Entry, Lake, Place, hour_of
from recsys.logs import load_log

NOON = 1_800_014_400.0  # 2027-01-15 12:00 UTC


def entry(place: int, at: float = NOON, user: str | None = None, **fields: Any) -> Entry:
    event = Event(
        "view", f"s{place % 3}", f"i{place}", event_id=f"e{place}", timestamp=at, **fields
    )
    return Entry((place, 0), event, user)


def taken(folder: Path, partition: int = 0) -> Lake:
    lake = Lake(folder)
    assert lake.take(partition)
    return lake


def held(folder: Path) -> list[str]:
    """The event ids of all files, in the order that a log is read in."""
    files = sorted(f for f in folder.rglob("*.parquet") if not f.name.startswith("."))
    return [e for file in files for e in pl.read_parquet(file)["event_id"]]


def test_an_event_lies_in_the_hour_of_its_time(tmp_path: Path) -> None:
    """Late ones too; days and hours are UTC."""
    lake = taken(tmp_path, 2)
    added = [entry(1), entry(2, NOON + 3599), entry(3, NOON + 3600), entry(4, NOON - 86400)]
    lake.add(2, added, "log")
    assert {str(p.relative_to(tmp_path)) for p in tmp_path.rglob("*.parquet")} == {
        "2027-01-15/12-2-000.parquet",
        "2027-01-15/13-2-000.parquet",
        "2027-01-14/12-2-000.parquet",
    }
    assert hour_of(NOON) == "2027-01-15/12"


def test_all_that_an_event_says_is_kept(tmp_path: Path) -> None:
    """Every field, the user its session is known by, and what was known of its item."""
    lake = taken(tmp_path)
    told = {"value": 2.5, "recommendation_id": "r", "position": 3, "properties": {"a": [1, "ü"]}}
    terms = {"price": 5.0, "category": ["a", "b"]}
    lake.add(0, [entry(1, user="u", terms=terms, **told), entry(2, user_id="v")], "log")
    rows = pl.read_parquet(tmp_path).rows(named=True)
    assert rows[0] == {
        "user_id": "u",
        "session_id": "s1",
        "item_id": "i1",
        "type": "view",
        "timestamp": NOON,
        "event_id": "e1",
        "value": 2.5,
        "recommendation_id": "r",
        "position": 3,
        "properties": '{"a":[1,"ü"]}',
        "accepted_ms": 1,
        "accepted_number": 0,
        **terms,
    }
    assert rows[1]["user_id"] == "v"
    assert {rows[1][name] for name in ("properties", "price", "category")} == {None}


def test_files_of_before_terms_were_noted_go_on(tmp_path: Path) -> None:
    """A file that lacks price and category takes more events, and is read beside others."""
    lake = taken(tmp_path)
    lake.add(0, [entry(1)], "log")
    (path,) = tmp_path.rglob("*.parquet")
    metadata = pl.read_parquet_metadata(path)
    old = pl.read_parquet(path, glob=False).drop("price", "category")
    old.write_parquet(path, metadata={"recsys.reached": metadata["recsys.reached"]})
    copy = path.with_name("11-0-000.parquet")
    copy.write_bytes(path.read_bytes())
    lake.look_again()
    assert lake.add(0, [entry(1), entry(2, terms={"price": 5.0})], "log") == 1
    assert pl.read_parquet(path, glob=False)["price"].to_list() == [None, 5.0]
    log = load_log([tmp_path], now=NOON + 86_400)
    assert sorted(log.frame["event_id"]) == ["e1", "e2"]


def test_a_log_is_read_from_it_as_it_is(tmp_path: Path) -> None:
    """`load_log` takes the folder, in time order, and rejects nothing."""
    lake = taken(tmp_path)
    lake.add(0, [entry(k, NOON + 1000 * k) for k in range(1, 20)], "log")
    log = load_log([tmp_path], now=NOON + 1e6)
    assert log.frame["event_id"].to_list() == [f"e{k}" for k in range(1, 20)]
    assert log.rejected == {}


@settings(deadline=None, max_examples=40)
@given(
    hours=st.lists(st.integers(0, 3), min_size=1, max_size=30),
    cuts=st.lists(st.integers(0, 30), max_size=6),
    stops=st.lists(st.integers(1, 4), max_size=6),
)
def test_what_is_delivered_again_is_written_once(
    tmp_path_factory: pytest.TempPathFactory, hours: list[int], cuts: list[int], stops: list[int]
) -> None:
    """Whatever part of a stream comes again, and after whichever file a writer was stopped."""
    folder = tmp_path_factory.mktemp("lake")
    entries = [entry(k + 1, NOON + 3600 * hour) for k, hour in enumerate(hours)]
    original = module._write
    start = 0
    for cut, stop in zip(cuts, [*stops, *[99] * len(cuts)], strict=False):
        written = 0

        def stopped(
            frame: pl.DataFrame, path: Path, reached: dict[str, Place], at: int = stop
        ) -> None:
            nonlocal written
            written += 1
            if written == at:
                raise OSError("the power is gone")
            original(frame, path, reached)

        lake = taken(folder)
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(module, "_write", stopped)
            try:
                lake.add(0, entries[start : max(start, cut)], "log")
                start = max(start, cut)  # confirmed: it does not come again
            except OSError:
                pass
        lake.release(0)
    lake = taken(folder)
    lake.add(0, entries[start:], "log")
    lake.release(0)
    assert sorted(held(folder)) == sorted(e.event.event_id or "" for e in entries)


def test_a_long_hour_has_several_parts(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A part that is full is not written again, and the order of arrival goes on in the next."""
    monkeypatch.setattr(module, "PART_ROWS", 10)
    for start in range(1, 40, 4):
        lake = taken(tmp_path)
        again = [entry(k) for k in range(max(1, start - 2), start + 4)]
        assert lake.add(0, again, "log") == 4
        lake.release(0)
    assert len(list(tmp_path.rglob("*.parquet"))) == 5
    assert held(tmp_path) == [f"e{k}" for k in range(1, 41)]


def test_a_log_that_began_anew_is_another(tmp_path: Path) -> None:
    """Places in it may lie before those of the one that was lost; both are remembered."""
    lake = taken(tmp_path)
    lake.add(0, [entry(100), entry(101)], "lost")
    lake.release(0)
    lake = taken(tmp_path)
    assert lake.add(0, [entry(7), entry(8)], "new") == 2
    assert lake.add(0, [entry(8), entry(9)], "new") == 1
    assert lake.add(0, [entry(101), entry(102)], "lost") == 1
    assert held(tmp_path) == ["e100", "e101", "e7", "e8", "e9", "e102"]


def take_elsewhere(folder: Path, partition: int, answers: "multiprocessing.Queue[bool]") -> None:
    answers.put(Lake(folder).take(partition))


def test_one_process_writes_a_partition(tmp_path: Path) -> None:
    """Another is refused until it is released; other partitions are free."""
    lake = taken(tmp_path, 1)
    assert lake.held == [1]
    assert not Lake(tmp_path).take(1)
    context = multiprocessing.get_context("spawn")
    answers = context.Queue()
    for partition, free in ((1, False), (2, True)):
        process = context.Process(target=take_elsewhere, args=(tmp_path, partition, answers))
        process.start()
        assert answers.get(timeout=60) is free
        process.join()
    lake.release(1)
    assert Lake(tmp_path).take(1)


def test_what_a_killed_writer_left_is_removed(tmp_path: Path) -> None:
    """Its half-written file is no log, and goes when the partition is taken."""
    lake = taken(tmp_path, 3)
    lake.add(3, [entry(1)], "log")
    lake.release(3)
    left = tmp_path / "2027-01-15" / ".12-3-000.parquet"
    left.write_bytes(b"half")
    assert load_log([tmp_path], now=NOON + 10).read == 1
    taken(tmp_path, 3)
    assert not left.exists()


def test_a_file_that_is_not_as_it_was_is_left_alone(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """Damaged, or written by somebody else: the next part begins, and the log names the file."""
    lake = taken(tmp_path)
    lake.add(0, [entry(1)], "log")
    path = tmp_path / "2027-01-15/12-0-000.parquet"
    pl.read_parquet(path).write_parquet(path)
    lake.look_again()
    assert lake.add(0, [entry(2)], "log") == 1
    path.with_name("12-0-001.parquet").write_bytes(b"PAR1 half")
    lake.look_again()
    assert lake.add(0, [entry(3)], "log") == 1
    assert pl.read_parquet(path.with_name("12-0-002.parquet"))["event_id"].to_list() == ["e3"]
    assert caplog.text.count("is not as it was written here") == 2


@pytest.mark.parametrize("name", ["fsync", "rename"])
def test_what_failed_at_the_end_is_not_written_twice(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Before and after the rename: the file itself tells what it holds."""
    lake = taken(tmp_path)
    lake.add(0, [entry(1)], "log")
    original = module.os.fsync
    calls = []

    def fails(descriptor: int) -> None:
        calls.append(descriptor)
        if len(calls) == (2 if name == "rename" else 1):
            raise OSError("no more")
        original(descriptor)

    with monkeypatch.context() as patch:
        patch.setattr(module.os, "fsync", fails)
        with pytest.raises(OSError, match="no more"):
            lake.add(0, [entry(2)], "log")
    assert lake.add(0, [entry(2), entry(3)], "log") == (1 if name == "rename" else 2)
    assert held(tmp_path) == ["e1", "e2", "e3"]


def test_a_file_that_was_taken_away_is_begun_anew(tmp_path: Path) -> None:
    """As whoever archives hours does."""
    lake = taken(tmp_path)
    lake.add(0, [entry(1)], "log")
    (tmp_path / "2027-01-15/12-0-000.parquet").unlink()
    with pytest.raises(FileNotFoundError):  # the first time it is missed
        lake.add(0, [entry(2)], "log")
    assert lake.add(0, [entry(2)], "log") == 1
    assert held(tmp_path) == ["e2"]
