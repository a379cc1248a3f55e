"""List files: whole or not there."""

from pathlib import Path

import polars as pl
import pytest

from recsys import listfiles
from recsys.listfiles import ListFileError, written


def test_parts_become_one_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """All rows in the order in which they were added, in row groups, with the metadata; nothing
    lies beside."""
    monkeypatch.setattr(listfiles, "ROWS", 10)
    path = tmp_path / "recs.parquet"
    path.write_text("of before")
    with written(path, {"recsys": "x"}) as file:
        for start in range(0, 37, 4):
            file.add(pl.DataFrame({"k": range(start, min(start + 4, 37))}))
            assert path.read_text() == "of before"
    assert file.rows == 37
    assert pl.read_parquet(path)["k"].to_list() == list(range(37))
    assert pl.read_parquet_metadata(path)["recsys"] == "x"
    assert list(tmp_path.iterdir()) == [path]


@pytest.mark.parametrize("stop", [KeyboardInterrupt, ValueError])
def test_an_interrupt_leaves_what_was_there(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, stop: type[BaseException]
) -> None:
    """The file of before, and nothing of the new one."""
    monkeypatch.setattr(listfiles, "ROWS", 1)
    path = tmp_path / "recs.parquet"
    path.write_text("of before")

    def write() -> None:
        with written(path, {}) as file:
            file.add(pl.DataFrame({"k": [1, 2]}))
            raise stop

    with pytest.raises(stop):
        write()
    assert path.read_text() == "of before"
    assert list(tmp_path.iterdir()) == [path]


def test_where_nothing_can_be_written_it_says_so_at_once(tmp_path: Path) -> None:
    """A folder in the file's place, one that is not there, and another run on the same file."""
    with pytest.raises(ListFileError, match="is a folder; name a file"), written(tmp_path, {}):
        pass
    nowhere = tmp_path / "none" / "recs.parquet"
    with pytest.raises(ListFileError, match="cannot be written"), written(nowhere, {}):
        pass
    path = tmp_path / "recs.parquet"
    with written(path, {}) as file:
        with pytest.raises(ListFileError, match="another run is writing it"), written(path, {}):
            pass
        file.add(pl.DataFrame({"k": [1]}))
    assert len(pl.read_parquet(path)) == 1


def test_what_a_killed_run_left_is_no_hindrance(tmp_path: Path) -> None:
    """Its parts are not taken for one's own, and go."""
    left = tmp_path / ".recs.parquet.parts"
    left.mkdir()
    for k in range(3):
        pl.DataFrame({"k": [99]}).write_parquet(left / f"{k:06d}.parquet")
    path = tmp_path / "recs.parquet"
    with written(path, {}) as file:
        file.add(pl.DataFrame({"k": [1]}))
    assert pl.read_parquet(path)["k"].to_list() == [1]
    assert not left.exists()
