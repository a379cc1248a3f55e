"""The command line, as a person or a script meets it."""

import json
from pathlib import Path
from typing import Any

import polars as pl
import pytest

from recsys.cli import main
from recsys.config import load_config
from recsys.registry import Registry
from tests.synthetic import checkerboard, walks

CONFIG = "[embedding]\nembedding_size = 8\nepochs = 3\n"
QUICK = "[ranker]\nenabled = false\n[session_embedding]\nembedding_size = 8\nepochs = 1\n"


@pytest.fixture
def log(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "recsys.toml").write_text(CONFIG)
    (tmp_path / "ivfpq.toml").write_text(CONFIG + '[index]\nkind = "ivfpq"')
    path = tmp_path / "clicks.parquet"
    checkerboard().write_parquet(path)
    return path


def last_line(capsys: pytest.CaptureFixture[str]) -> dict[str, object]:
    answer: dict[str, object] = json.loads(capsys.readouterr().out.splitlines()[-1])
    return answer


def test_train_publishes_and_accounts_for_every_row(
    log: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """--json ends stdout with one object of the contract's shape; the bundle is active."""
    assert main(["train", str(log), "--data-dir", "d", "--json"]) == 0
    summary = last_line(capsys)
    assert summary["events"] == {"read": 480, "kept": 480, "rejected": {}}
    assert (summary["users"], summary["items"], summary["sessions"]) == (40, 20, 80)
    assert Path("d/bundles/CURRENT").read_text().strip() == summary["bundle"]
    assert {"load", "embedding", "publish", "total"} <= set(summary["seconds"])  # type: ignore[call-overload]


def test_train_hears_what_the_shop_says(log: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """From the files that are named, else from that of the data directory; a bad row is named."""
    told = [{"item_id": f"i{k}", "category": f"c{k % 2}"} for k in range(20)]
    told += [{"item_id": f"new{k}", "category": f"c{k}"} for k in range(2)]
    lines = "\n".join(json.dumps(entry) for entry in told)
    Path("shop.ndjson").write_text(lines)
    train = ["train", str(log), "--data-dir", "d"]
    assert main([*train, "--items", "shop.ndjson"]) == 0
    assert len(Registry(Path("d/bundles")).load().unseen_items) == 2
    assert main(train) == 0
    assert len(Registry(Path("d/bundles")).load().unseen_items) == 0
    Path("d/items.ndjson").write_text(lines)
    assert main(train) == 0
    assert len(Registry(Path("d/bundles")).load().unseen_items) == 2
    Path("d/items.ndjson").write_text(lines + '\n{"item_id": "x", "price": "dear"}')
    capsys.readouterr()
    assert main(train) == 2
    assert "items.ndjson, row 23: price: must be a number" in capsys.readouterr().err


def test_a_refit_follows_the_active_bundle(log: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """There must be one; what comes of it serves, and says what it was refitted from."""
    Path("small.toml").write_text(CONFIG + QUICK)
    frame = walks(100)
    frame.head(400).write_parquet("early.parquet")
    frame.write_parquet("whole.parquet")
    refit = ["train", "whole.parquet", "--refit", "--config", "small.toml", "--json"]
    assert main(refit) == 2
    assert "no bundle in" in capsys.readouterr().err
    assert main(["train", "early.parquet", "--config", "small.toml", "--json"]) == 0
    first = last_line(capsys)
    assert main(refit) == 0
    second = last_line(capsys)
    assert (first["refits"], second["refits"]) == (0, 1)
    assert Path("data/bundles/CURRENT").read_text().strip() == second["bundle"]
    assert main(["bundles", "show", str(second["bundle"]), "--json"]) == 0
    shown = last_line(capsys)
    assert (shown["refit_of"], shown["refits"]) == (first["bundle"], 1)
    assert main(refit) == 2
    assert "nothing to refit" in capsys.readouterr().err


def gated(log: str, capsys: pytest.CaptureFixture[str], *words: str) -> tuple[int, dict[str, Any]]:
    """Train behind the gate; the status and the JSON."""
    status = main(["train", log, "--gate", "--config", "small.toml", *words, "--json"])
    return status, last_line(capsys)


def test_the_gate_stands_before_publication(log: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """What is good is active, what is not is kept aside with status 1, and another run of what is
    good takes over; no file is touched by hand."""
    Path("small.toml").write_text(CONFIG + QUICK)
    pointer = Path("data/bundles/CURRENT")
    frame = walks(450)
    frame.head(2000).write_parquet("early.parquet")
    frame.write_parquet("whole.parquet")
    seed = pl.col("item_id").shuffle(seed=3)
    frame.with_columns(seed).write_parquet("shuffled.parquet")

    status, first = gated("early.parquet", capsys)
    assert (status, first["gate"]["passed"]) == (0, True)
    assert pointer.read_text().strip() == first["bundle"]
    assert "gate" in first["seconds"]
    assert first["notes"][-1].startswith("the window is not in the bundle")

    status, bad = gated("shuffled.parquet", capsys)
    assert (status, bad["gate"]["passed"]) == (1, False)
    assert pointer.read_text().strip() == first["bundle"]
    assert any("not better than popularity" in reason for reason in bad["gate"]["reasons"])
    assert main(["bundles", "list", "--json"]) == 0
    listed: list[dict[str, Any]] = last_line(capsys)["bundles"]  # type: ignore[assignment]
    assert [(b["active"], b["refused"]) for b in listed] == [(True, False), (False, True)]

    status, second = gated("whole.parquet", capsys)
    assert status == 0, second["gate"]["reasons"]
    assert second["gate"]["active"] == first["bundle"]
    assert pointer.read_text().strip() == second["bundle"]
    assert main(["bundles", "rollback"]) == 0
    assert pointer.read_text().strip() == first["bundle"]


def test_the_gate_without_much_to_judge_by(log: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """The first bundle is active unjudged, the next waits; damaged, the first is no hindrance."""
    Path("small.toml").write_text(CONFIG + QUICK)
    status, first = gated(str(log), capsys)
    assert (status, first["gate"]["passed"], first["gate"]["judged"]) == (0, True, False)
    status, second = gated(str(log), capsys, "--window", "0.3")
    assert (status, second["gate"]["passed"], second["gate"]["judged"]) == (1, False, False)
    assert second["gate"]["window"]["events"] > first["gate"]["window"]["events"]
    (Path("data/bundles") / str(first["bundle"]) / "manifest.json").write_text("{")
    status, third = gated(str(log), capsys, "--window", "0.3")
    assert (status, third["gate"]["active"]) == (0, None)
    assert any("the active bundle is not compared" in note for note in third["notes"])


def test_evaluate_compares_systems(log: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """The four systems stand side by side; on a checkerboard the session wins."""
    assert main(["evaluate", str(log), "--holdout", "0.3", "--at", "5", "--json"]) == 0
    report = last_line(capsys)
    systems = report["systems"]
    assert set(systems) == {"popular", "batch", "session", "full"}  # type: ignore[call-overload]
    assert systems["full"]["hr@5"] > systems["popular"]["hr@5"]  # type: ignore[index]
    assert set(report["latency_us"]) == {"p50", "p90", "p99"}  # type: ignore[call-overload]


def test_evaluate_takes_two_logs(log: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """--train and --test are two logs, the second after the first."""
    frame = checkerboard()
    frame.head(240).write_parquet("a.parquet")
    later = frame.tail(240).with_columns(pl.col("session_id") + "-later")
    later.write_parquet("b.parquet")
    assert main(["evaluate", "--train", "a.parquet", "--test", "b.parquet", "--json"]) == 0
    assert last_line(capsys)["samples"] > 0  # type: ignore[operator]


def test_evaluate_writes_a_report(log: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """--report brings all systems, the curve and the slices into one page and into the JSON."""
    words = ["evaluate", str(log), "--holdout", "0.3", "--at", "5", "--report", "out/r.html"]
    assert main([*words, "--json"]) == 0
    report = last_line(capsys)
    assert {"blend", "item_knn", "full"} <= set(report["systems"])  # type: ignore[call-overload]
    delays = [d["delay"] for d in report["freshness"]]  # type: ignore[attr-defined]
    assert delays == ["0s", "1m", "5m", "30m", "1h", "6h", "1d"]
    assert "session length" in report["slices"]  # type: ignore[operator]
    origin: dict[str, Any] = report["reproduce"]  # type: ignore[assignment]
    assert (
        origin["command"]
        == f"recsys evaluate {log} --holdout 0.3 --at 5 --report out/r.html --json"
    )
    assert [file["name"] for file in origin["files"]] == [str(log), "recsys.toml"]
    page = Path("out/r.html").read_text()
    assert origin["files"][0]["sha256"] in page
    assert str(report["bundle"]) in page


def test_evaluate_without_times(log: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """A report of a log without times has no curve and says so; asking for one is refused."""
    checkerboard().drop("timestamp").write_parquet("rows.parquet")
    assert main(["evaluate", "rows.parquet", "--report", "r.html", "--json"]) == 0
    assert last_line(capsys)["freshness"] == []
    assert "the log has no times" in Path("r.html").read_text()
    assert main(["evaluate", "rows.parquet", "--freshness", "0s,1m"]) == 2
    assert "--columns timestamp=NAME" in " ".join(capsys.readouterr().err.split())


def test_tune_writes_what_it_found_and_goes_on(
    log: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """The file is in force at once; the same command then adds to the same run, not to its own
    findings; a start that a person changed is another run."""
    command = ["tune", str(log), "--data-dir", "d", "--holdout", "0.3", "--json", "--trials"]
    assert main([*command, "2"]) == 0
    first = last_line(capsys)
    written = load_config(Path("recsys.toml"))
    assert first["config"] == "recsys.toml"
    assert written.embedding.epochs == 3 or first["better"]
    assert main([*command, "4"]) == 0
    assert [s["trials"] for s in last_line(capsys)["stages"]] == [4, 4, 4]  # type: ignore[attr-defined]
    assert len(list(Path("d/tuning").iterdir())) == 1
    Path("recsys.toml").write_text(CONFIG + "alpha = 3")
    assert main([*command, "1"]) == 0
    assert len(list(Path("d/tuning").iterdir())) == 2
    assert main(["train", str(log), "--data-dir", "d"]) == 0


@pytest.mark.parametrize(
    ("arguments", "text"),
    [
        (["evaluate", "clicks.parquet", "--systems", "blent"], "did you mean 'blend'"),
        (["evaluate", "clicks.parquet", "--freshness", "1x"], "'1x' is not a delay"),
        (["evaluate", "clicks.parquet", "--report", "."], "is a folder"),
        (["train", "nothing.csv"], "nothing.csv"),
        (["train", "clicks.parquet", "--columns", "item_id"], "is not NAME=COLUMN"),
        (["train", "clicks.parquet", "--columns", "item_id=itm_id"], "item_id"),
        (["train", "clicks.parquet", "--config", "none.toml"], "cannot be read"),
        (["train", "clicks.parquet", "--config", "ivfpq.toml"], "ivfpq needs 256 items"),
        (["train", "clicks.parquet", "--window", "1d"], "--window: only --gate holds one out"),
        (["train", "clicks.parquet", "--gate", "--window", "2y"], "'2y' is neither a period"),
        (["tune", "clicks.parquet", "--holdout", "0.001"], "too short to tune on"),
        (["tune", "clicks.parquet", "--placement", "defalt"], "did you mean 'default'"),
        (["tune", "clicks.parquet", "--minutes", "0"], "--minutes: must be above 0, got 0"),
        (["evaluate"], "give a log"),
        (
            [
                "evaluate",
                "--train",
                "clicks.parquet",
                "--test",
                "clicks.parquet",
                "--holdout",
                "1d",
            ],
            "--holdout cuts one LOG",
        ),
        (["evaluate", "--train", "clicks.parquet"], "go together"),
        (["evaluate", "clicks.parquet", "--placement", "defalt"], "did you mean 'default'"),
    ],
)
def test_wrong_input_is_named_with_status_2(
    log: Path, arguments: list[str], text: str, capsys: pytest.CaptureFixture[str]
) -> None:
    """Nothing is published, the error says what is wrong, the status is 2."""
    assert main(arguments) == 2
    assert text in " ".join(capsys.readouterr().err.split())
    assert not Path("data/bundles").exists()


def test_protocol_user_needs_users(log: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Of a log that names none it says so, and how to name them."""
    pl.read_parquet(log).drop("user_id").write_parquet("nobody.parquet")
    assert main(["evaluate", "nobody.parquet", "--protocol", "user"]) == 2
    text = " ".join(capsys.readouterr().err.split())
    assert "names one that training knew" in text
    assert "--columns user_id=NAME" in text


def dirty(path: Path) -> Path:
    """The log with one bad row among 480."""
    lines = checkerboard().write_csv().splitlines()
    lines[7] = lines[7].replace("view", "teleport")
    path.write_text("\n".join(lines))
    return path


def test_a_bad_row_is_kept_beside_the_bundle(log: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Into a new data directory a dirty log trains; the row stands in its rejects file."""
    assert main(["train", str(dirty(log.with_name("d.csv"))), "--data-dir", "new", "--json"]) == 0
    events = last_line(capsys)["events"]
    assert events == {"read": 480, "kept": 479, "rejected": {"unknown_type": 1}}
    assert "teleport" in Path("new/rejects.jsonl").read_text()


def test_evaluate_writes_no_file_unasked(log: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """A file that happens to be called rejects.jsonl is nobody's business."""
    Path("rejects.jsonl").write_text("mine")
    assert main(["evaluate", str(dirty(log.with_name("d.csv")))]) == 0
    assert Path("rejects.jsonl").read_text() == "mine"
    assert "unknown_type 1" in " ".join(capsys.readouterr().err.split())


@pytest.mark.parametrize(
    "command", ["train", "evaluate", "tune", "bundles", "stream", "serve", "demo"]
)
def test_every_command_has_help_with_an_example(
    command: str, capsys: pytest.CaptureFixture[str]
) -> None:
    """--help explains and shows a command to copy."""
    with pytest.raises(SystemExit) as ended:
        main([command, "--help"])
    assert ended.value.code == 0
    assert f"example: recsys {command}" in capsys.readouterr().out


def test_interruption_publishes_nothing(
    log: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Ctrl-C in training ends with status 1 and leaves the data directory as it was."""

    def interrupt(*_args: object, **_kwargs: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("recsys.models.item_knn.fit", interrupt)
    assert main(["train", str(log), "--data-dir", "d"]) == 1
    assert "interrupted" in capsys.readouterr().err
    assert not Path("d/bundles").exists()


def test_an_interrupted_ablation_leaves_the_report(
    log: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """What was evaluated by then is shown and written, and says what is missing."""

    def interrupt(*_args: object, **_kwargs: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("recsys.evaluation.ablation.ablation", interrupt)
    assert main(["evaluate", str(log), "--report", "out.html", "--json"]) == 0
    captured = capsys.readouterr()
    assert "the ablation was interrupted" in " ".join(captured.err.split())
    assert "ndcg@20" in captured.err
    assert json.loads(captured.out.splitlines()[-1])["ablation"] is None
    assert "the ablation was interrupted" in Path("out.html").read_text()
