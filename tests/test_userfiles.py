"""User files: every form that an id list comes in, and what is wrong with some."""

from pathlib import Path

import polars as pl
import pytest

from recsys import userfiles
from recsys.interactions import IdMap
from recsys.userfiles import UserFileError, all_users, once, users_of


def test_text_csv_and_parquet_name_the_same(tmp_path: Path) -> None:
    """One id a line, or a column user_id beside others; a mark of byte order is none of an id."""
    ids = ["ann", "7", "ünal"]
    frame = pl.DataFrame({"country": ["x", "y", "z"], "user_id": ids})
    (tmp_path / "users.txt").write_text("ann\r\n7\n\n ünal \n", encoding="utf-8-sig")
    frame.write_csv(tmp_path / "users.csv", include_bom=True)
    frame.write_parquet(tmp_path / "users.parquet")
    for name in ("users.txt", "users.csv", "users.parquet"):
        assert list(users_of(tmp_path / name)) == ids


def test_parquet_of_numbers_is_read_in_pieces(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whole numbers are ids as a log has them; no file is read at once."""
    monkeypatch.setattr(userfiles, "READ", 7)
    path = tmp_path / "users.parquet"
    pl.DataFrame({"user_id": range(40)}).write_parquet(path)
    assert list(users_of(path)) == [str(k) for k in range(40)]


@pytest.mark.parametrize(
    ("name", "content", "told"),
    [
        ("u.csv", b"user_id,x\nann,1\n,2\n", "row 2: user_id is empty"),
        ("u.csv", b"id\nann\n", "no column user_id; there are: id"),
        ("u.csv", b"", "no column user_id; there are: none"),
        ("u.txt", b"ann\n" + b"x" * 300, "row 2: user_id is longer than 256 characters"),
        ("u.txt", b"PAR1\xff\xfe", "not UTF-8 text"),
        ("u.parquet", b"no parquet", "cannot be read"),
    ],
)
def test_what_is_wrong_is_named(tmp_path: Path, name: str, content: bytes, told: str) -> None:
    """The file, the row and the column."""
    path = tmp_path / name
    path.write_bytes(content)
    with pytest.raises(UserFileError, match=told) as error:
        list(users_of(path))
    assert str(path) in str(error.value)


def test_ids_of_no_use_and_files_that_are_not_there(tmp_path: Path) -> None:
    """An id that is null or no id at all is refused, and so is a path with nothing there."""
    path = tmp_path / "users.parquet"
    pl.DataFrame({"user_id": ["ann", None]}).write_parquet(path)
    with pytest.raises(UserFileError, match="row 2: user_id is empty"):
        list(users_of(path))
    pl.DataFrame({"user_id": [1.5]}).write_parquet(path)
    with pytest.raises(UserFileError, match="user_id is of type Float64"):
        list(users_of(path))
    with pytest.raises(UserFileError, match=r"none.txt: cannot be read"):
        list(users_of(tmp_path / "none.txt"))


def test_a_user_named_twice_counts_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """Known or not, the first time."""
    monkeypatch.setattr(userfiles, "READ", 3)
    known = IdMap.from_ids([f"u{k}" for k in range(10)])
    named = ["u3", "x", "u1", "u3", "x", "u1", "y", "u9"]
    assert list(once(iter(named), known)) == ["u3", "x", "u1", "y", "u9"]
    assert list(all_users(known)) == known.ids(range(10))
