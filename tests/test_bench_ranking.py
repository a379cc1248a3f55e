"""The benchmark script measures what it says, once, and its yardstick is the published one."""

import json
import math
import os
import re
import signal
import subprocess
import sys
import time
from collections import Counter
from pathlib import Path

import bench_ranking
import numpy as np
import polars as pl
import pytest
import ranking_figures
from hypothesis import example, given, settings
from hypothesis import strategies as st
from vmis_knn import Parameters, VmisKnn, reciprocal_rank, tuned

from recsys.interactions import Sequences

ITEMS = 8
SESSIONS = st.lists(st.lists(st.integers(0, ITEMS - 1), min_size=1, max_size=6), min_size=2)
FULL = {"systems": {"full": {"hr@20": 0.5, "mrr@20": 0.2}, "popular": {"hr@20": 0.1}}}


def sequences(sessions: list[list[int]]) -> Sequences:
    lengths = [len(session) for session in sessions]
    rows = [row for session in sessions for row in session]
    indptr = np.concatenate([[0], np.cumsum(lengths)]).astype(np.int64)
    return Sequences(indptr, np.array(rows, dtype=np.int32))


def published_votes(
    sessions: list[list[int]], query: list[int], parameters: Parameters
) -> dict[int, float]:
    """The votes of VMIS-kNN, read off its description. query: oldest first."""
    query = query[-parameters.last_items :]
    holding = Counter(item for session in sessions for item in set(session))
    sharing = [s for s, session in enumerate(sessions) if set(session) & set(query)]
    similarity = {}
    for s in sharing[-parameters.sessions :]:
        places = [len(query) - query[::-1].index(i) for i in set(sessions[s]) & set(query)]
        similarity[s] = sum(places) / len(set(query))
    votes: Counter[int] = Counter()
    best = sorted(similarity, key=lambda s: (-similarity[s], -s))[: parameters.neighbours]
    for s in best:
        newest = next(k for k, item in enumerate(query[::-1], 1) if item in sessions[s])
        for item in set(sessions[s]):
            idf = math.log(len(sessions) / holding[item])
            votes[item] += similarity[s] * idf * (1 - 0.1 * newest)
    return votes


@settings(max_examples=30, deadline=None)
@example(
    [[1, 4], [0, 1, 3], [0, 1, 3], [1, 4], [1, 4]], [0, 2, 1, 3, 4], 4
)  # 1 + .6 = .2 + .6 + .8
@given(SESSIONS, st.lists(st.integers(0, ITEMS - 1), max_size=8), st.integers(1, 5))
def test_the_yardstick_is_vmis_knn(
    sessions: list[list[int]], query: list[int], neighbours: int
) -> None:
    """Its list is that of the description, item by item, where all sessions may take part."""
    parameters = Parameters(sessions=len(sessions), neighbours=neighbours, last_items=5)
    model = VmisKnn(sequences(sessions), ITEMS, parameters)
    found = model.recommend(np.array(query[::-1], dtype=np.int32), ITEMS)
    votes = published_votes(sessions, query, parameters)
    assert set(found) == set(votes)
    shown = [votes[int(row)] for row in found]
    assert shown == pytest.approx(sorted(votes.values(), reverse=True))


def test_only_the_latest_sessions_take_part() -> None:
    """Of five sessions with the item, the two that ended last vote."""
    model = VmisKnn(sequences([[0, k] for k in (1, 2, 3, 4, 5)]), ITEMS, Parameters(2, 10, 3))
    assert set(model.recommend(np.array([0], dtype=np.int32), 5)) == {0, 4, 5}


def test_parameters_are_chosen_on_the_tail() -> None:
    """What follows is told by the item before the last, so a longer memory is chosen."""
    rng = np.random.default_rng(0)
    told = [[a, 4, 5, 6, a + 10] for a in rng.integers(0, 4, 200)]
    assert tuned(sequences(told), 20).last_items > 3


def test_reciprocal_rank_counts_from_one() -> None:
    """1 at the top, 0 where the target is missing."""
    rows = np.array([3, 1], dtype=np.int32)
    assert [reciprocal_rank(rows, item) for item in (3, 1, 2)] == [1, 0.5, 0]


@pytest.mark.parametrize(
    "config", ["", "[embedding]\nreg = 2.0\n", "[training]\nthreads = 1\nseed = 1\n"]
)
def test_a_seed_changes_nothing_else(config: str) -> None:
    """What tuning found stays, whatever tables it wrote."""
    told = bench_ranking.tomllib.loads(bench_ranking.seeded(config, 7))
    old = bench_ranking.tomllib.loads(config)
    assert told.pop("training") == {**old.pop("training", {}), "seed": 7}
    assert told == old


def test_markdown_stands_between_its_marks(tmp_path: Path) -> None:
    """The rest of the file stays; a file without marks is refused and left alone."""
    opened, closed = ranking_figures.MARKS
    path = tmp_path / "README.md"
    path.write_text(f"before\n{opened}\nold\n{closed}\nafter\n")
    ranking_figures.write_between(path, "new")
    assert path.read_text() == f"before\n{opened}\nnew\n{closed}\nafter\n"
    path.write_text("nothing")
    with pytest.raises(ValueError, match="needs the lines"):
        ranking_figures.write_between(path, "new")
    assert path.read_text() == "nothing"


def test_every_published_figure_has_its_source() -> None:
    """A data set that is measured, as many values as ours, and where they were read."""
    figures = ranking_figures.tomllib.loads(ranking_figures.PUBLISHED.read_text())["figure"]
    datasets = {dataset.name for dataset in bench_ranking.DATASETS}
    for figure in figures:
        assert figure["dataset"] in datasets
        assert len(figure["values"]) == 2
        assert figure["source"]
        assert re.match("https://", figure["url"])


def data(folder: Path, sessions: int = 300) -> Path:
    """A small file in the shape of diginetica's: items follow one another in a ring."""
    rows = [
        {"split": int(s >= sessions * 0.9), "session": s, "item": 1 + (s * 7 + k) % 60}
        for s in range(sessions)
        for k in range(5)
    ]
    folder.mkdir()
    pl.DataFrame(rows).write_parquet(folder / "diginetica-sessions.parquet")
    return folder


def test_one_command_measures_all_and_a_second_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Quality, yardsticks, speed of one data set; what is finished is not done again."""
    monkeypatch.setenv("COLUMNS", "200")
    out, readme = tmp_path / "results.json", tmp_path / "README.md"
    readme.write_text("\n".join(ranking_figures.MARKS))
    asked = ["--data", str(data(tmp_path / "data")), "--only", "diginetica", "--seeds", "1"]
    asked += ["--out", str(out), "--markdown", str(readme)]
    assert bench_ranking.main(asked) == 0
    records = json.loads(out.read_text())["records"]
    kinds = ["full 42", "train", "latency", "als", "vmis"]
    assert list(records) == [f"diginetica {kind}" for kind in kinds]
    full, train, latency, als, vmis = records.values()
    assert full["bundle"] == train["bundle"] == als["bundle"]
    assert full["samples"] == als["samples"] == vmis["samples"] == 30 * 4
    assert full["systems"]["full"]["hr@20"] > full["systems"]["popular"]["hr@20"]
    assert vmis["hr@20"] == 1
    assert latency["p50"] <= latency["p90"] <= latency["p99"]
    assert train["seconds"]["total"] > 0
    assert str(tmp_path) not in full["command"]
    table = capsys.readouterr().out
    assert f"{100 * full['systems']['full']['mrr@20']:.2f}" in table
    assert "SGNN-HN" in readme.read_text()

    def again(*_arguments: str) -> None:
        raise AssertionError("nothing is left to be measured")

    monkeypatch.setattr(bench_ranking, "run", again)
    assert bench_ranking.main(asked) == 0
    assert capsys.readouterr().out == table


def test_other_data_are_measured_anew(tmp_path: Path) -> None:
    """A result counts for the file that it was measured on, and for what was asked."""
    dataset = bench_ranking.DATASETS[0]
    folder = data(tmp_path / "data")
    results = bench_ranking.Results(tmp_path / "r.json", {})
    bench = bench_ranking.Bench(folder, tmp_path, results, [42], None, None)
    assert bench.missing(dataset, "full 42")
    bench.keep(dataset, "full 42", FULL)
    assert not bench.missing(dataset, "full 42")
    reduced = bench_ranking.Bench(folder, tmp_path, results, [42], 100, None)
    assert reduced.missing(dataset, "full 42")
    other = bench_ranking.Bench(
        data(tmp_path / "other", 200),
        tmp_path,
        bench_ranking.Results.at(results.path, False),
        [42],
        None,
        None,
    )
    assert other.missing(dataset, "full 42")


def test_means_and_spread_over_seeds(tmp_path: Path) -> None:
    """A target has one figure a seed, scaled as it is shown; absent ones are left out."""
    results = bench_ranking.Results(tmp_path / "r.json", {})
    bench = bench_ranking.Bench(data(tmp_path / "data"), tmp_path, results, [42, 43], None, None)
    target = ranking_figures.TARGETS[0]
    assert bench.values(target) == []
    bench.keep(bench_ranking.DATASETS[0], "full 42", FULL)
    assert bench.values(target) == [50.0]
    assert (target.met(58.5), target.met(57.3), target.met(57)) == ("aim", "must", "missed")


def test_a_failed_command_is_named(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Status 1, with what the product said; nothing is kept of it."""
    folder = tmp_path / "data"
    folder.mkdir()
    frame = pl.DataFrame({"split": [0, 1], "session": [0, 1], "thing": [1, 1]})
    frame.write_parquet(folder / "rsc15-64-sessions.parquet")
    out = tmp_path / "results.json"
    asked = ["--data", str(folder), "--only", "rsc15-64", "--seeds", "1", "--out", str(out)]
    assert bench_ranking.main(asked) == 1
    assert "no column 'item'" in " ".join(capsys.readouterr().err.split())
    assert not out.exists()


@pytest.mark.parametrize("sent", [signal.SIGINT, signal.SIGTERM])
def test_an_interrupt_leaves_nothing_behind(sent: signal.Signals, tmp_path: Path) -> None:
    """Status 1, a word on how to go on, and the parts of the data are gone."""
    work = tmp_path / "work"
    work.mkdir()
    script = str(bench_ranking.ROOT / "scripts" / "bench_ranking.py")
    asked = ["--data", str(data(tmp_path / "data")), "--only", "diginetica", "--seeds", "1"]
    running = subprocess.Popen(
        [sys.executable, script, *asked, "--out", str(tmp_path / "r.json")],
        env={**os.environ, "TMPDIR": str(work), "PYTHONPATH": str(bench_ranking.ROOT)},
        stderr=subprocess.PIPE,
        text=True,
    )
    try:
        while not list(work.glob("bench-ranking-*/*.parquet")):
            assert running.poll() is None, "it ended before it was interrupted"
            time.sleep(0.05)
        running.send_signal(sent)
        said = running.communicate(timeout=120)[1]
    finally:
        running.kill()
    assert running.returncode == 1
    assert "the same command goes on" in " ".join(said.split())
    assert not list(work.iterdir())


@pytest.mark.parametrize(
    ("asked", "text"),
    [(["--only", "digi"], "unknown digi"), (["--seeds", "0"], "at least 1"), ([], "is missing")],
)
def test_wrong_usage_is_told_before_any_work(
    asked: list[str], text: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Unknown data sets, impossible numbers and absent files end with status 2."""
    with pytest.raises(SystemExit) as ended:
        bench_ranking.main(["--data", str(tmp_path), *asked])
    assert ended.value.code == 2
    assert text in capsys.readouterr().err
