"""`recsys recommend`, as a person or a job meets it."""

import json
from pathlib import Path
from typing import Any

import polars as pl
import pytest

from recsys import batch
from recsys.batch import SCHEMA, Batch
from recsys.cli import main
from recsys.recommend import Request, recommend
from recsys.registry import Registry
from recsys.session import Session
from tests.synthetic import checkerboard

CONFIG = "[embedding]\nembedding_size = 8\n[session_embedding]\nembedding_size = 8\nepochs = 1\n"


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A data directory with two bundles."""
    folder = tmp_path_factory.mktemp("trained")
    (folder / "recsys.toml").write_text(CONFIG)
    for users in (30, 40):
        checkerboard(users).write_parquet(folder / "log.parquet")
        words = ["train", str(folder / "log.parquet"), "--config", str(folder / "recsys.toml")]
        assert main([*words, "--data-dir", str(folder / "data")]) == 0
    return folder / "data"


@pytest.fixture
def out(tmp_path: Path) -> Path:
    return tmp_path / "recs.parquet"


def asked(
    trained: Path, out: Path, capsys: pytest.CaptureFixture[str], *words: str
) -> dict[str, Any]:
    """What the command says in JSON."""
    told = ["--out", str(out), "--data-dir", str(trained), "--threads", "1", "--json"]
    assert main(["recommend", *words, *told]) == 0
    found: dict[str, Any] = json.loads(capsys.readouterr().out.splitlines()[-1])
    return found


def test_all_users_get_what_the_api_answers(
    trained: Path, out: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """A row an item, users in the bundle's order; the file says what it was made by."""
    summary = asked(trained, out, capsys, "--users", "all", "--n", "4")
    frame = pl.read_parquet(out)
    assert frame.schema == SCHEMA
    bundle = Registry(trained / "bundles").load()
    users = bundle.users.ids(range(len(bundle.users)))
    assert frame["user_id"].unique(maintain_order=True).to_list() == users
    for user in users[::9]:
        answer = recommend(bundle, Session(user_id=user), Request(4))
        theirs = frame.filter(pl.col("user_id") == user)
        assert theirs["rank"].to_list() == [1, 2, 3, 4]
        assert theirs["item_id"].to_list() == answer.item_ids
        assert theirs["score"].to_list() == answer.scores
        assert theirs["reason"].to_list() == answer.reasons
        assert set(theirs["tier"]) == {answer.tier} == {"batch"}
    assert (summary["users"], summary["rows"], summary["tiers"]) == (40, 160, {"batch": 40})
    made_by = json.loads(pl.read_parquet_metadata(out)["recsys"])
    assert made_by == {"bundle": bundle.version, "placement": "default", "source": "", "n": 4}


def test_what_is_read_is_not_written_over(
    trained: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """A list of users is not lost by its name as the output, however it is written."""
    users = tmp_path / "users.txt"
    users.write_text("u1\n")
    told = ["--out", str(tmp_path / "." / "users.txt"), "--data-dir", str(trained)]
    assert main(["recommend", "--users", str(users), *told]) == 2
    assert "is a file that this reads; name another one" in " ".join(
        capsys.readouterr().err.split()
    )
    assert users.read_text() == "u1\n"


def test_users_of_a_file_known_or_not(
    trained: Path, out: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Each once, in the order of the file; who is not known gets popular items, and their number is
    told."""
    (tmp_path / "users.txt").write_text("u5\nstranger\nu2\nu5\n")
    for source in ([], ["--source", "embedding"]):
        file = str(tmp_path / "users.txt")
        told = ["--out", str(out), "--data-dir", str(trained), "--threads", "1"]
        assert main(["recommend", "--users", file, *told, *source]) == 0
        said = " ".join(capsys.readouterr().err.split())
        assert "1 of these users are not known to the bundle: they got popular items" in said
        frame = pl.read_parquet(out)
        assert frame["user_id"].unique(maintain_order=True).to_list() == ["u5", "stranger", "u2"]
        tiers = frame.group_by("user_id", maintain_order=True).agg(pl.col("tier").unique())
        assert tiers["tier"].to_list() == [["batch"], ["popular"], ["batch"]]


def test_another_bundle_and_another_placement(
    trained: Path, out: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """By its version; a placement leaves out what it leaves out in the API."""
    first, _ = Registry(trained / "bundles").versions()
    words = ["--users", "all", "--bundle", first, "--placement", "discover", "--n", "30"]
    for source in ("", "embedding"):
        summary = asked(trained, out, capsys, *words, "--source", source)
        assert (summary["bundle"], summary["users"], summary["source"]) == (first, 30, source)
        seen = pl.read_parquet(trained.parent / "log.parquet").select("user_id", "item_id")
        assert pl.read_parquet(out).join(seen, on=["user_id", "item_id"]).is_empty()


def test_what_the_data_directory_knows_of_items_holds(
    trained: Path, out: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """What the shop has hidden is in no list."""
    shop = tmp_path / "shop.ndjson"
    shop.write_text('{"item_id": "i0", "visible": false}\n')
    words = ["--users", "all", "--placement", "continue"]
    asked(trained, out, capsys, *words)
    assert "i0" in pl.read_parquet(out)["item_id"]
    asked(trained, out, capsys, *words, "--items", str(shop))
    assert "i0" not in pl.read_parquet(out)["item_id"]


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (["--users", "none.txt"], "none.txt: cannot be read"),
        (["--users", "empty.txt"], "empty.txt: names no user"),
        (["--users", "all", "--n", "1001"], "--n: must be from 1 to 1000, got 1001"),
        (["--users", "all", "--placement", "basked"], "did you mean 'basket'"),
        (["--users", "all", "--source", "x"], "unknown source 'x'"),
        (["--users", "all", "--bundle", "b"], "no bundle b in"),
        (["--users", "all", "--threads", "-1"], "--threads: must be 1 or more"),
    ],
)
def test_what_cannot_be_done_is_said(
    trained: Path,
    out: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    words: list[str],
    told: str,
) -> None:
    """Status 2, a sentence, and no file."""
    monkeypatch.chdir(out.parent)
    Path("empty.txt").write_text("\n")
    assert main(["recommend", *words, "--out", str(out), "--data-dir", str(trained)]) == 2
    assert told in " ".join(capsys.readouterr().err.split())
    assert [path.name for path in out.parent.iterdir()] == ["empty.txt"]


def test_a_bundle_without_users_says_how_it_gets_some(
    tmp_path: Path, out: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """A log without users has no users to make lists for."""
    log = tmp_path / "log.parquet"
    checkerboard().with_columns(user_id=None).write_parquet(log)
    (tmp_path / "recsys.toml").write_text(CONFIG)
    config, data = str(tmp_path / "recsys.toml"), str(tmp_path / "data")
    assert main(["train", str(log), "--config", config, "--data-dir", data]) == 0
    assert main(["recommend", "--users", "all", "--out", str(out), "--data-dir", data]) == 2
    assert "--columns user_id=NAME" in " ".join(capsys.readouterr().err.split())


def test_an_interrupt_leaves_the_lists_of_before(
    trained: Path, out: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Status 1, the old file as it was, and nothing beside it."""
    asked(trained, out, capsys, "--users", "all")
    before = out.read_bytes()
    monkeypatch.setattr(batch, "BLOCK", 8)
    rank, ranked = Batch.lists, []

    def interrupted(self: Batch, users: list[str]) -> pl.DataFrame:
        ranked.append(users)
        if len(ranked) == 3:
            raise KeyboardInterrupt
        return rank(self, users)

    monkeypatch.setattr(Batch, "lists", interrupted)
    for threads in ("1", "2"):
        ranked.clear()
        words = ["recommend", "--users", "all", "--source", "embedding", "--threads", threads]
        assert main([*words, "--out", str(out), "--data-dir", str(trained)]) == 1
        assert "interrupted" in capsys.readouterr().err
        assert out.read_bytes() == before
        assert list(out.parent.iterdir()) == [out]
