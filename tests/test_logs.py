"""Logs: every kind of file, every kind of dirt, every row accounted for."""

import gzip
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pandas as pd
import polars as pl
import pytest
import zstandard
from hypothesis import given, settings
from hypothesis import strategies as st

from recsys.config import EventsConfig
from recsys.logs import COLUMNS, Log, LogError, load_log, log_from_frame, sessionize

NOW = 1.75e9
T = 1.7e9
TERM_TYPES = {"category": pl.List(pl.String()), "price": pl.Float64()}
SCHEMA = dict.fromkeys(COLUMNS, pl.String()) | {"timestamp": pl.Float64(), "value": pl.Float64()}


def write(path: Path, content: str | bytes) -> Path:
    """A file with this content; compressed as its name says."""
    data = content.encode() if isinstance(content, str) else content
    if path.suffix == ".gz":
        data = gzip.compress(data)
    if path.suffix == ".zst":
        data = zstandard.compress(data)
    path.write_bytes(data)
    return path


def load(path: Path | Sequence[Path], **options: Any) -> Log:
    """load_log at a fixed time, its promise about rows checked."""
    log = load_log([path] if isinstance(path, Path) else path, **{"now": NOW, **options})
    assert log.read == log.kept + sum(log.rejected.values())
    told = {name: TERM_TYPES[name] for name in log.frame.columns if name in TERM_TYPES}
    assert log.frame.schema == pl.Schema(SCHEMA | told)
    return log


def frame_log(data: dict[str, Any], **options: Any) -> Log:
    """log_from_frame of this data, at a fixed time."""
    return log_from_frame(pl.DataFrame(data), **{"now": NOW, **options})


def clicks(n: int = 3) -> pl.DataFrame:
    """A clean log of n events in one session."""
    return pl.DataFrame(
        {
            "session_id": ["s"] * n,
            "item_id": [f"i{k}" for k in range(n)],
            "timestamp": [T + k for k in range(n)],
        }
    )


def rejects_of(path: Path) -> list[dict[str, Any]]:
    """The rejects file, line by line."""
    return [json.loads(line) for line in path.read_bytes().splitlines()]


# Files


@pytest.mark.parametrize(
    "name",
    [
        "a.csv",
        "a.tsv",
        "a.csv.gz",
        "a.csv.zst",
        "a.jsonl",
        "a.ndjson.gz",
        "a.jsonl.zst",
        "a.parquet",
    ],
)
def test_every_format_gives_the_same_events(tmp_path: Path, name: str) -> None:
    """One log, written in each format, loads as one and the same frame."""
    path, frame = tmp_path / name, clicks()
    if ".parquet" in name:
        frame.write_parquet(path)
    elif "json" in name:
        write(path, frame.write_ndjson())
    else:
        write(path, frame.write_csv(separator="\t" if "tsv" in name else ","))
    log = load(path)
    assert log.frame.equals(log_from_frame(frame, now=NOW).frame)
    assert log.frame["item_id"].to_list() == ["i0", "i1", "i2"]
    assert log.clock == "time"


def test_folders_and_globs_mix_formats_and_skip_temporary_files(tmp_path: Path) -> None:
    """A folder is read recursively in sorted order, without hidden, temporary and other files."""
    (tmp_path / "b").mkdir()
    (tmp_path / ".hidden").mkdir()
    clicks().write_csv(tmp_path / "a.csv")
    clicks().with_columns(item_id=pl.lit("late")).write_parquet(tmp_path / "b" / "c.parquet")
    for junk in ("_SUCCESS", "_part.csv", ".x.csv", "d.csv.tmp", "readme.md", ".hidden/y.csv"):
        write(tmp_path / junk, "broken")
    log = load(tmp_path)
    assert log.read == 6
    assert log.frame["item_id"].to_list() == ["i0", "late", "i1", "late", "i2", "late"]
    assert load([tmp_path / "*.csv", tmp_path / "a.csv"]).read == 3  # each file once
    write(tmp_path / "empty.csv", "")
    log = load(tmp_path)
    assert log.read == 6
    assert any("empty.csv is empty" in note for note in log.notes)


@pytest.mark.parametrize(
    ("name", "content", "text"),
    [
        ("a.csv", b"", "a.csv is empty: no events"),
        ("a.csv", b"session_id,item_id\n", "no rows"),
        ("a.jsonl", b"", "a.jsonl is empty"),
        ("a.jsonl", b"\n\n", "no JSON object in the first"),
        ("a.jsonl", b"{\nhello\n", "no JSON object in the first"),
        ("a.csv.gz", gzip.compress(b"", mtime=0), "a.csv.gz is empty"),
        ("a.parquet", b"PAR1 and then nothing", "a.parquet: cannot be read"),
        ("a.csv.gz", None, "a.csv.gz: cannot be read"),
        ("a.xlsx", b"x", "unknown kind of file; known: .csv .tsv .jsonl"),
        (
            "a.csv",
            b"time,item\n1,2\n",
            "neither session_id nor user_id; the columns are time, item",
        ),
        ("a.csv", b"user,time\n1,2\n", r"no item_id; .*--columns item_id="),
        ("a.csv", b"user,item\n1,2\n", "users but neither sessions nor timestamps"),
        ("a.csv", b"user,item,time\n1,2,7\n", r"counter, not a time; .*--columns timestamp=\)"),
    ],
)
def test_what_cannot_be_a_log_is_refused(
    tmp_path: Path, name: str, content: bytes | None, text: str
) -> None:
    """The error names the file and what is wrong with it."""
    path = tmp_path / name
    if content is None:
        path.write_bytes(gzip.compress(clicks(1000).write_csv().encode())[:200])
    else:
        path.write_bytes(content)
    with pytest.raises(LogError, match=text):
        load_log([path])


def test_missing_paths_are_refused(tmp_path: Path) -> None:
    """No path, no such file, no match and no logs in a folder are four clear errors."""
    with pytest.raises(LogError, match="no log given"):
        load_log([])
    with pytest.raises(LogError, match=r"nothing\.csv: no such file"):
        load_log([tmp_path / "nothing.csv"])
    with pytest.raises(LogError, match="no such file"):
        load_log([tmp_path / "*.csv"])
    with pytest.raises(LogError, match="no log files in this folder"):
        load_log([tmp_path])


def test_a_truncated_parquet_file_is_refused(tmp_path: Path) -> None:
    """A copy that stopped half-way is not read as a shorter log."""
    clicks(1000).write_parquet(tmp_path / "whole.parquet")
    data = (tmp_path / "whole.parquet").read_bytes()
    path = write(tmp_path / "half.parquet", data[: len(data) // 2])
    with pytest.raises(LogError, match=r"half\.parquet: cannot be read"):
        load_log([path])


# Broken lines


def test_broken_csv_lines_reject_only_themselves(tmp_path: Path) -> None:
    """Wrong field counts, stray quotes and bad bytes each cost one row, quoted breaks none."""
    lines = [
        b"session_id,item_id,note",
        b"s,i1,fine",
        b"s,i2",
        b"s,i3,x,y",
        b's,"i,4","two\nlines, ""quoted"""',
        b"",
        b's,i5,5" disk',
        b's,"i6,open',
        b"s,i7\xff,bad",
        b's,"i8"x,""',
        b's,i9,""\r',
        b's"2,k,i"',
        b's,i11,3" by 4"',
        "s,i10,\ufffd is a character too? not beside bad bytes".encode(),
    ]
    path = write(tmp_path / "a.csv", b"\n".join(lines))
    log = load(path, max_bad=1.0, rejects=tmp_path / "rejects.jsonl")
    assert log.frame["item_id"].to_list() == ["i1", "i,4", "i9", "i11"]
    assert log.frame["timestamp"].to_list() == [1.0, 4.0, 9.0, 11.0]  # the row numbers of the file
    assert log.rejected == {"csv_fields": 2, "csv_quotes": 4, "not_utf8": 2}
    rejects = rejects_of(tmp_path / "rejects.jsonl")
    places = [(r["row"], r["line"], r["reason"]) for r in rejects]
    assert places == [
        (2, 3, "csv_fields"),
        (3, 4, "csv_fields"),
        (5, 8, "csv_quotes"),
        (6, 9, "csv_quotes"),
        (7, 10, "not_utf8"),
        (8, 11, "csv_quotes"),
        (10, 13, "csv_quotes"),
        (12, 15, "not_utf8"),
    ]
    assert rejects[0]["message"] == "2 fields where the header has 3"
    assert rejects[0]["value"] == "s,i2"
    assert rejects[0]["file"] == str(path)


def test_the_replacement_character_is_a_character(tmp_path: Path) -> None:
    """U+FFFD in valid UTF-8 rejects nothing."""
    path = write(tmp_path / "a.csv", "session_id,item_id\ns,\ufffd\n")
    assert load(path).frame["item_id"].to_list() == ["\ufffd"]


def test_quotes_and_separators_of_spreadsheets(tmp_path: Path) -> None:
    """A byte order mark, semicolons, quotes everywhere and Windows line ends are no dirt."""
    text = '\ufeff"session_id";"item_id"\r\n"s";"a;b"\r\n"s";"c"\r\n'
    log = load(write(tmp_path / "a.csv", text))
    assert log.frame["item_id"].to_list() == ["a;b", "c"]


def test_broken_json_lines_reject_only_themselves(tmp_path: Path) -> None:
    """Cut lines, other JSON values and bad bytes cost one row each; blank lines are no rows."""
    lines = [
        b'\xef\xbb\xbf{"session_id":"s","item_id":"i1"}',
        b"",
        b'{"session_id":"s","item_id":',
        b"[1]",
        b'{"session_id":"s","item_id":17850.0,"x":{"y":1}}\r',
        b'{"session_id":"s","item_id":"\xff"}',
        b'{"session_id":"s","item_id":NaN}',
        b'{"session_id":"s","item_id":"a\\"b\\nc"}',
    ]
    path = write(tmp_path / "a.jsonl", b"\n".join(lines))
    log = load(path, max_bad=1.0, rejects=tmp_path / "r.jsonl")
    assert log.frame["item_id"].to_list() == ["i1", "17850", 'a"b\nc']
    assert log.frame["timestamp"].to_list() == [1.0, 4.0, 7.0]
    assert log.rejected == {"json": 3, "not_utf8": 1}
    places = [(r["row"], r["line"]) for r in rejects_of(tmp_path / "r.jsonl")]
    assert places == [(2, 3), (3, 4), (5, 6), (6, 7)]


def test_json_fields_may_come_late(tmp_path: Path) -> None:
    """A standard field that the first rows lack is read all the same."""
    lines = ['{"session_id":"s","item_id":"i"}'] * 10_001
    lines.append('{"session_id":"s","item_id":"i","user_id":"u","type":"cart"}')
    log = load(write(tmp_path / "a.jsonl", "\n".join(lines)))
    assert log.frame["user_id"].drop_nulls().to_list() == ["u"]
    assert log.frame["type"].to_list()[-2:] == ["view", "cart"]


# Columns


def test_columns_are_mapped_by_name() -> None:
    """The mapping wins over standard names and aliases."""
    columns = {"basket": ["b"], "session": ["s"], "sku": ["k"], "item_id": ["i"]}
    log = frame_log(columns, columns={"session_id": "basket", "item_id": "sku"})
    assert log.frame.row(0)[:3] == (None, "b", "k")


def test_aliases_are_found_and_noted() -> None:
    """Usual names are understood, whatever their case, and the log says so."""
    log = frame_log({"SessionId": [1], "visitorid": [2], "Product_ID": [3], "ts": [T]})
    assert log.frame.row(0)[:3] == ("2", "1", "3")
    assert "session_id is column 'SessionId'" in log.notes
    assert "timestamp is column 'ts'" in log.notes


def test_a_rating_column_makes_ratings() -> None:
    """Without a type column, events with a rating are ratings of that value."""
    columns = {"user": [1], "item": [2], "rating": [3], "timestamp": [T]}
    assert frame_log(columns).frame["type"].to_list() == ["rating"]
    assert frame_log(columns, default_type="view").frame["type"].to_list() == ["view"]


def test_wrong_mappings_name_what_there_is() -> None:
    """Unknown standard names, absent columns and unknown default types are refused."""
    frame = clicks()
    with pytest.raises(LogError, match=r"no column 'item'.*did you mean 'item_id'"):
        log_from_frame(frame, columns={"item": "item_id"})
    with pytest.raises(LogError, match=r"no column 'itemid'.*did you mean 'item_id'"):
        log_from_frame(frame, columns={"item_id": "itemid"})
    with pytest.raises(LogError, match="no weight for type 'veiw'; did you mean 'view'"):
        log_from_frame(frame, default_type="veiw")
    with pytest.raises(LogError, match="expected a polars or pandas DataFrame, got list"):
        log_from_frame([1])


def test_columns_that_hold_something_else_are_refused() -> None:
    """Lists are no ids, booleans no numbers and no times."""
    with pytest.raises(LogError, match="item_id: a column of List"):
        frame_log({"session_id": ["s"], "item_id": [["a"]]})
    with pytest.raises(LogError, match="value: a column of Boolean holds no numbers"):
        frame_log({"session_id": ["s"], "item_id": ["a"], "value": [True]})
    with pytest.raises(LogError, match="timestamp: column 'time' has a column of Boolean"):
        frame_log({"session_id": ["s"], "item_id": ["a"], "time": [True]})


def test_files_agree_about_time(tmp_path: Path) -> None:
    """Files with and without timestamps have no common clock."""
    clicks().write_csv(tmp_path / "a.csv")
    clicks().drop("timestamp").write_csv(tmp_path / "b.csv")
    with pytest.raises(LogError, match=r"b\.csv: no timestamp, but other files have one"):
        load_log([tmp_path])


# Frames


def test_polars_and_pandas_frames_are_logs() -> None:
    """Eager, lazy and pandas frames give the same log."""
    eager = clicks().with_columns(user_id=pl.Series([17850.0, None, 3.0]), n=pl.lit(1))
    expected = log_from_frame(eager, now=NOW).frame
    assert expected["user_id"].to_list() == ["17850", None, "3"]
    assert log_from_frame(eager.lazy(), now=NOW).frame.equals(expected)
    assert log_from_frame(eager.to_pandas(), now=NOW).frame.equals(expected)


def test_pandas_columns_of_mixed_objects_are_text() -> None:
    """Ids that are numbers in one row and text in another are common in pandas."""
    frame = pd.DataFrame({"session_id": ["s", "s"], "item_id": pd.Series([1, "b"], dtype=object)})
    frame["user_id"] = pd.Series([None, 7], dtype=object)
    log = log_from_frame(frame)
    assert log.frame["item_id"].to_list() == ["1", "b"]
    assert log.frame["user_id"].to_list() == [None, "7"]


def test_the_frame_given_is_left_alone() -> None:
    """Loading from a frame of several chunks does not take it apart."""
    frame = pl.concat([clicks(), clicks()], rechunk=False)
    log_from_frame(frame, now=NOW)
    assert frame.shape == (6, 3)


# Ids


def test_ids_become_text() -> None:
    """Whole floats lose their point; empty and NaN are absent; nothing else is stripped."""
    ids = [17850.0, float("nan"), None, 1.5, float("inf")]
    columns = {"session_id": ["s"] * 5, "item_id": [1, 2, 3, 4, 5], "user_id": ids}
    assert frame_log(columns).frame["user_id"].to_list() == ["17850", None, None, "1.5", None]
    columns = {"session_id": ["", " s ", "007"], "item_id": ["a"] * 3, "user_id": ["u", "u", ""]}
    log = frame_log({**columns, "timestamp": [T, T + 1, T + 2]})
    assert log.frame["session_id"].to_list() == ["u#0", " s ", "007"]
    assert log.frame["user_id"].to_list() == ["u", "u", None]


def test_text_that_was_floats_loses_its_point(tmp_path: Path) -> None:
    """pandas writes an integer column with gaps as 17850.0; only a whole column is repaired."""
    text = "user_id,item_id,session_id\n17850.0,1.0,a\n,2.5,b\n"
    log = load(write(tmp_path / "a.csv", text))
    assert log.frame["user_id"].to_list() == ["17850", None]
    assert log.frame["item_id"].to_list() == ["1.0", "2.5"]
    assert any("trailing '.0'" in note for note in log.notes)


def test_ids_that_are_missing_or_too_long_are_rejected() -> None:
    """A row needs somebody and something; ids end at 256 characters, not bytes."""
    columns = {
        "session_id": ["s", "s", None, "s", "s" * 257],
        "user_id": [None, None, None, "u", "u"],
        "item_id": ["é" * 256, "é" * 257, "a", None, "a"],
    }
    log = frame_log({**columns, "timestamp": [T] * 5}, max_bad=1.0)
    assert log.kept == 1
    assert log.rejected == {
        "item_id_missing": 1,
        "item_id_too_long": 1,
        "no_session_or_user": 1,
        "session_id_too_long": 1,
    }


# Types and values


def test_types_are_stripped_defaulted_and_checked() -> None:
    """A missing type is the default one; an unknown one is rejected with the near name."""
    kinds = [" cart ", None, "", "veiw", "search", "mine"]
    columns = {"session_id": ["s"] * 6, "item_id": ["i"] * 4 + [None, "i"], "type": kinds}
    config = EventsConfig(weights={"mine": 2.0})
    log = frame_log(columns, default_type="purchase", config=config, max_bad=0.5)
    assert log.frame["type"].to_list() == ["cart", "purchase", "purchase", "search", "mine"]
    assert log.rejected == {"unknown_type": 1}
    with pytest.raises(LogError, match=r"'veiw'; did you mean 'view'[^\n]*\n[^\n]*events.weights"):
        frame_log(columns, config=config)


def test_negative_values_of_positive_types_are_returns() -> None:
    """A purchase of -1 pieces takes the purchase back; a dislike stays what it is."""
    kinds = ["purchase", "purchase", "dislike", "impression"]
    columns = {"session_id": ["s"] * 4, "item_id": ["i"] * 4, "type": kinds}
    log = frame_log({**columns, "value": [2, -1, -1, -1]})
    assert log.frame["type"].to_list() == ["purchase", "remove", "dislike", "impression"]
    assert log.frame["value"].to_list() == [2.0, -1.0, -1.0, -1.0]
    assert "1 events with a negative value are returns: their type is 'remove'" in log.notes


def test_values_must_be_finite_numbers_of_a_sane_size(tmp_path: Path) -> None:
    """Text, NaN, infinity and giants are rejected, each for its own reason; empty is absent."""
    values = ["1.5", "", " 2 ", "abc", "nan", "inf", "-inf", "1e9", "-1.1e9"]
    text = "session_id,item_id,value\n" + "".join(f"s,i,{value}\n" for value in values)
    log = load(write(tmp_path / "a.csv", text), max_bad=1.0)
    assert log.frame["value"].to_list() == [1.5, None, 2.0, 1e9]
    assert log.rejected == {"value_not_a_number": 1, "value_not_finite": 3, "value_out_of_range": 1}


def test_terms_are_read_where_a_log_has_them(tmp_path: Path) -> None:
    """Price and categories, of any format, some files or none; columns without any are no terms."""
    told = clicks().with_columns(
        category=pl.Series([["a", "b"], ["c"], None], dtype=pl.List(pl.String)),
        Price=pl.Series([1.5, None, 0.0]),
    )
    told.write_ndjson(tmp_path / "a.jsonl")
    told.write_parquet(tmp_path / "b.parquet")
    clicks().write_csv(tmp_path / "c.csv")
    log = load_log([tmp_path], now=NOW)
    assert log.frame.columns == [*COLUMNS, "category", "price"]
    assert log.frame["price"].to_list() == [1.5, 1.5, None, None, None, None, 0.0, 0.0, None]
    assert log.frame["category"].to_list()[:4] == [["a", "b"], ["a", "b"], None, ["c"]]
    pandas = log_from_frame(told.to_pandas(), now=NOW).frame
    assert pandas.equals(log_from_frame(told, now=NOW).frame)
    bare = frame_log({"session_id": ["s"], "item_id": ["i"], "price": [None], "category": [""]})
    assert bare.frame.columns == list(COLUMNS)
    unmapped = log_from_frame(told, columns={"price": "", "category": ""}, now=NOW)
    assert unmapped.frame.columns == list(COLUMNS)


def test_terms_that_cannot_be_are_rejected(tmp_path: Path) -> None:
    """Each for its own reason, with what would do without them."""
    many = json.dumps([str(k) for k in range(101)])
    rows: list[dict[str, object]] = [
        {"price": "1", "category": "a"},
        *({"price": price} for price in ("-0.01", "inf", "dear", "nan")),
        *({"category": label} for label in ("x" * 257, ["x" * 257], {"a": 1}, json.loads(many))),
    ]
    lines = [json.dumps({"session_id": "s", "item_id": "i", **row}) for row in rows]
    rejects = tmp_path / "rejects"
    log = load_log(
        [write(tmp_path / "a.jsonl", "\n".join(lines))], max_bad=1.0, rejects=rejects, now=NOW
    )
    assert log.kept == 1
    assert log.rejected == {
        "price_out_of_range": 2,
        "price_not_a_number": 2,
        "category_too_long": 2,
        "category_no_text": 1,
        "categories_too_many": 1,
    }
    rejected = [r for r in rejects_of(rejects) if r["reason"] != "price_not_a_number"]
    assert all("--columns" in r["message"] for r in rejected)
    frame = clicks(2).with_columns(category=pl.Series([["a"], ["x" * 257]]))
    log_from_frame(frame, now=NOW, max_bad=1.0, rejects=rejects)
    assert rejects_of(rejects)[0]["value"].startswith("['xxx")


def test_repeated_event_ids_count_once(tmp_path: Path) -> None:
    """The first in file order stays, the rest are counted but make no log a bad one."""
    for name in ("a.csv", "b.csv"):
        write(tmp_path / name, "session_id,item_id,event_id\ns,i,e1\ns,i,\ns,j,e1\n")
    log = load(tmp_path, rejects=tmp_path / "rejects.out")
    assert log.rejected == {"duplicate_event_id": 3}
    assert log.frame["event_id"].to_list() == ["e1", None, None]
    rows = [(Path(r["file"]).name, r["row"]) for r in rejects_of(tmp_path / "rejects.out")]
    assert rows == [("a.csv", 3), ("b.csv", 1), ("b.csv", 3)]


# Time


@pytest.mark.parametrize("scale", [1, 1000, 10**6, 10**9])
@pytest.mark.parametrize("as_text", [False, True])
def test_unix_time_tells_its_unit_by_magnitude(scale: int, as_text: bool) -> None:
    """Seconds, milli-, micro- and nanoseconds become seconds, from numbers and from text."""
    times = pl.Series([int(T), int(T) + 60]) * scale
    times = times.cast(pl.String) if as_text else times
    log = frame_log({"session_id": ["s", "s"], "item_id": ["a", "b"], "timestamp": times})
    assert log.frame["timestamp"].to_list() == [T, T + 60]


@pytest.mark.parametrize(
    ("text", "seconds"),
    [
        ("2023-11-14T22:13:20Z", T),
        ("2023-11-14t22:13:20z", T),
        ("2023-11-14T22:13:20", T),
        ("2023-11-14 22:13:20", T),
        (" 2023-11-14 22:13:20 UTC", T),
        ("2023-11-14T23:13:20+01:00", T),
        ("2023-11-14 17:13:20-0500", T),
        ("2023-11-14T22:13:20.250Z", T + 0.25),
        ("2023-11-14 22:13:20.25", T + 0.25),
        ("2023-11-14T22:13:20.250000", T + 0.25),
        ("2023-11-14 22:13", T - 20),
        ("2023-11-14T22:13", T - 20),
        ("2023-11-14", T - 80_000),
    ],
)
def test_iso_times_of_any_form(text: str, seconds: float) -> None:
    """One column may mix ISO forms; without a zone it is UTC."""
    times = ["2023-11-14T22:13:20Z", text, "2023-11-14"]
    log = frame_log({"session_id": ["s"] * 3, "item_id": ["a", "b", "c"], "timestamp": times})
    assert log.frame.filter(item_id="b")["timestamp"].to_list() == [seconds]


@pytest.mark.parametrize("unit", ["ms", "us", "ns"])
@pytest.mark.parametrize("zone", [None, "UTC", "Europe/Berlin"])
def test_datetime_columns(unit: Any, zone: str | None) -> None:
    """Datetimes of any unit and zone are the moments they name."""
    times = pl.Series([T * 1000]).cast(pl.Int64).cast(pl.Datetime("ms")).cast(pl.Datetime(unit))
    if zone:
        times = times.dt.replace_time_zone("UTC").dt.convert_time_zone(zone)
    log = frame_log({"session_id": ["s"], "item_id": ["a"], "timestamp": times})
    assert log.frame["timestamp"].to_list() == [T]
    log = frame_log({"session_id": ["s"], "item_id": ["a"], "timestamp": times.dt.date()})
    assert log.frame["timestamp"].to_list() == [T - 80_000]


def test_the_majority_decides_the_form_of_a_column(tmp_path: Path) -> None:
    """Numbers among ISO times and text among numbers are rejected; the message names both."""
    rejects = tmp_path / "r.jsonl"
    columns = {"session_id": ["s"] * 4, "item_id": ["a"] * 4}
    iso = ["2023-11-14", "1700000000", "12/1/2010 8:26", "2023-11-15"]
    log = frame_log({**columns, "timestamp": iso}, max_bad=1.0, rejects=rejects)
    assert log.rejected == {"timestamp_format": 2}
    messages = [entry["message"] for entry in rejects_of(rejects)]
    assert messages[0] == "the column holds ISO 8601 times, this is a number"
    assert messages[1] == "the column holds ISO 8601 times, this is other text"
    numbers = ["1700000000", "2023-11-14", "1700000001", "1700000002"]
    log = frame_log({**columns, "timestamp": numbers}, max_bad=1.0, rejects=rejects)
    assert log.kept == 3
    assert "the column holds Unix seconds" in rejects_of(rejects)[0]["message"]


def test_times_must_be_there_and_possible() -> None:
    """No time, a default date and the far future are rejected; a day ahead is a wrong clock."""
    times = [T, None, float("nan"), 0.0, NOW + 86_399, NOW + 86_401]
    log = frame_log(
        {"session_id": ["s"] * 6, "item_id": list("abcdef"), "timestamp": times}, max_bad=1.0
    )
    assert log.frame["item_id"].to_list() == ["a", "e"]
    assert log.rejected == {"timestamp_missing": 2, "timestamp_out_of_range": 2}


def test_a_counter_is_not_a_clock() -> None:
    """Small numbers are refused with the remedy, and the remedy works."""
    columns = {"session_id": ["s", "s"], "item_id": ["a", "b"], "timestamp": [1, 0]}
    with pytest.raises(LogError, match="--columns timestamp="):
        frame_log(columns)
    log = frame_log(columns, columns={"timestamp": ""})
    assert log.frame["item_id"].to_list() == ["a", "b"]


def test_rows_are_the_clock_without_timestamps(tmp_path: Path) -> None:
    """Rows count on from file to file; a row without session cannot be placed."""
    write(tmp_path / "a.csv", "session_id,item_id,user_id\ns,b,u\n,c,u\n")
    write(tmp_path / "b.csv", "session_id,item_id,user_id\ns,a,u\n")
    log = load(tmp_path, max_bad=0.5)
    assert log.clock == "rows"
    assert log.frame["item_id"].to_list() == ["b", "a"]
    assert log.frame["timestamp"].to_list() == [1.0, 3.0]
    assert log.rejected == {"no_session": 1}


def test_events_come_in_time_order_ties_in_file_order() -> None:
    """The sort is stable."""
    times = [T + 1, T, T + 1, T, T + 1]
    log = frame_log({"session_id": ["s"] * 5, "item_id": list("abcde"), "timestamp": times})
    assert log.frame["item_id"].to_list() == list("bdace")


# Sessions


def test_sessions_are_cut_at_idle_time() -> None:
    """More than the idle minutes open a new session, exactly them do not; users apart."""
    minutes = [0, 1, 30, 60.1, 61, 95]
    users = ["a", "b", "a", "a", "b", None]
    frame = pl.DataFrame({"user_id": users, "timestamp": [T + 60.0 * m for m in minutes]})
    assert sessionize(frame, 30.0)["session_id"].to_list() == [
        "a#0", "b#0", "a#0", "a#1", "b#1", None,
    ]  # fmt: skip


def test_cut_sessions_never_meet_given_ones() -> None:
    """A given session "u#0" and the first one cut from user u stay apart."""
    columns = {"session_id": ["u#0", None, None], "user_id": ["v", "u", "u"]}
    log = frame_log({**columns, "item_id": ["a", "b", "c"], "timestamp": [T, T, T + 9e3]})
    assert log.frame["session_id"].to_list() == ["u#0", "u##0", "u##1"]
    assert "2 events without session: 2 sessions are cut at 30 idle minutes" in log.notes


@given(
    st.lists(st.tuples(st.sampled_from("abc"), st.integers(0, 10_000)), max_size=60),
    st.integers(1, 60),
)
def test_sessionize_agrees_with_a_loop(events: list[tuple[str, int]], idle: int) -> None:
    """The vectorised cut is the obvious loop."""
    events.sort(key=lambda event: event[1])
    last: dict[str, int] = {}
    number: dict[str, int] = {}
    expected = []
    for user, at in events:
        if user not in last:
            number[user] = 0
        elif at - last[user] > idle * 60:
            number[user] += 1
        last[user] = at
        expected.append(f"{user}#{number[user]}")
    schema = {"user_id": pl.String, "timestamp": pl.Float64}
    frame = pl.DataFrame(
        {"user_id": [u for u, _ in events], "timestamp": [float(t) for _, t in events]}, schema
    )
    assert sessionize(frame, float(idle))["session_id"].to_list() == expected


# Rejects


def test_too_many_bad_rows_stop_the_load(tmp_path: Path) -> None:
    """The error counts by reason, shows the first of each, the file and the way on."""
    text = "session_id,item_id\n" + "s,i\n" * 97 + "s,\n" * 2 + ",i\n"
    path, rejects = write(tmp_path / "a.csv", text), tmp_path / "rejects.jsonl"
    with pytest.raises(LogError) as error:
        load(path, rejects=rejects)
    message = str(error.value)
    assert "3 of 100 rows are bad, more than 1 %" in message
    assert f"item_id_missing 2, first in {path} row 98, item_id" in message
    assert "no_session 1" in message
    assert str(rejects) in message
    assert "--max-bad 0.03" in message
    assert len(rejects_of(rejects)) == 3
    assert [p.name for p in tmp_path.iterdir() if "tmp" in p.name] == []
    assert load(path, max_bad=0.03, rejects=rejects).rejects_path == rejects


def test_no_rejects_no_file(tmp_path: Path) -> None:
    """A clean load leaves no rejects file, not even an older one."""
    rejects = write(tmp_path / "rejects.jsonl", "old")
    log = log_from_frame(clicks(), now=NOW, rejects=rejects)
    assert log.rejects_path is None
    assert not rejects.exists()


def test_a_log_without_a_good_row_is_refused() -> None:
    """However much dirt is allowed, no events are no log."""
    with pytest.raises(LogError, match="no row is left"):
        frame_log({"session_id": [None], "item_id": ["a"]}, max_bad=1.0)


DIRT = st.sampled_from(["", "a", "b", "17.0", "x" * 300, "nan", "-1", "1e12", '"', ",", "é", "\n"])
FIELDS: dict[str, st.SearchStrategy[str]] = {
    "user_id": DIRT,
    "session_id": DIRT,
    "item_id": DIRT,
    "type": st.sampled_from(["view", "cart", "", " purchase", "search", "nope"]),
    "timestamp": st.sampled_from(["1700000000", "1700000000.5", "", "2023-11-14", "0", "9e9", "?"]),
    "value": st.sampled_from(["", "1", "-2", "inf", "2e9", "many"]),
    "event_id": st.sampled_from(["", "e1", "e2", "e3"]),
    "category": st.sampled_from(["", "a", '["a", "b"]', "[", "{}", "x" * 300]),
    "price": st.sampled_from(["", "1", "0", "-2", "nan", "dear"]),
}
ROWS = st.lists(st.fixed_dictionaries(FIELDS), min_size=1, max_size=30)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """One folder for all examples of a property."""
    return tmp_path_factory.mktemp("property")


@settings(max_examples=50, deadline=None)
@given(rows=ROWS, broken=st.lists(st.binary(max_size=12), max_size=4), json_lines=st.booleans())
def test_every_row_of_a_dirty_log_is_accounted_for(
    folder: Path, rows: list[dict[str, str]], broken: list[bytes], json_lines: bool
) -> None:
    """Whatever is in the file: rows read are rows kept or rows rejected with a reason."""
    if json_lines:
        lines = [json.dumps({k: v for k, v in row.items() if v}).encode() for row in rows]
        path = folder / "log.jsonl"
    else:
        lines = pl.DataFrame(rows).write_csv().encode().splitlines(keepends=False)
        path = folder / "log.csv"
    path.write_bytes(b"\n".join([*lines, *broken]))
    rejects = folder / "rejects"
    try:
        log = load(path, max_bad=1.0, rejects=rejects)
    except LogError:
        return
    if not broken:
        assert log.read == len(rows)
    if log.rejects_path:
        assert len(rejects_of(rejects)) == sum(log.rejected.values())
    frame = log.frame
    assert frame["timestamp"].is_sorted()
    assert frame["session_id"].null_count() == 0
    assert frame.filter(pl.col("item_id").is_null(), pl.col("type") != "search").is_empty()
    assert frame["event_id"].drop_nulls().is_unique().all()


@settings(max_examples=50, deadline=None)
@given(st.lists(st.text(st.characters(exclude_categories=["Cs", "Cc"]), min_size=1), min_size=1))
def test_clean_ids_survive_every_text_format(folder: Path, ids: list[str]) -> None:
    """Quotes, separators and any script in an id come back as they were."""
    frame = pl.DataFrame({"session_id": ["s"] * len(ids), "item_id": ids})
    frame.write_csv(folder / "ids.csv")
    frame.write_ndjson(folder / "ids.jsonl")
    for name in ("ids.csv", "ids.jsonl"):
        log = load(folder / name)
        assert log.frame["item_id"].to_list() in (ids, [i.removesuffix(".0") for i in ids])
