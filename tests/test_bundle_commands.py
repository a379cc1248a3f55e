"""`recsys bundles` as commands."""

import json
from pathlib import Path
from typing import Any

import pytest

from recsys.cli import main
from recsys.registry import Registry
from tests.synthetic import checkerboard

CONFIG = "[embedding]\nembedding_size = 8\nepochs = {epochs}\n"


@pytest.fixture
def trained(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> tuple[str, str]:
    """Two bundles of one log, with other settings."""
    monkeypatch.chdir(tmp_path)
    checkerboard().write_parquet("clicks.parquet")
    for epochs in (2, 3):
        Path("recsys.toml").write_text(CONFIG.format(epochs=epochs))
        assert main(["train", "clicks.parquet"]) == 0
    first, second = (p.name for p in sorted(Path("data/bundles").glob("[!.CH]*"), key=_made))
    return first, second


def _made(path: Path) -> int:
    return path.stat().st_mtime_ns


def said(capsys: pytest.CaptureFixture[str], *words: str) -> dict[str, Any]:
    capsys.readouterr()
    assert main(["bundles", *words, "--json"]) == 0
    answer: dict[str, Any] = json.loads(capsys.readouterr().out)
    return answer


def test_what_is_there_and_what_serves(
    trained: tuple[str, str], capsys: pytest.CaptureFixture[str]
) -> None:
    """list, activate, rollback, prune: each says what is so afterwards."""
    first, second = trained
    listed = said(capsys, "list")
    assert (listed["active"], listed["previous"]) == (second, first)
    assert [(b["bundle"], b["active"]) for b in listed["bundles"]] == [
        (first, False),
        (second, True),
    ]
    assert listed["bundles"][0]["events"] == 480
    assert said(capsys, "rollback") == {"active": first, "before": second}
    assert said(capsys, "activate", second) == {"active": second, "before": first}
    assert said(capsys, "prune", "--keep", "1") == {"removed": [], "bundles": [first, second]}


def test_what_differs(trained: tuple[str, str], capsys: pytest.CaptureFixture[str]) -> None:
    """show has a bundle's settings and facts, diff only what is not the same."""
    first, second = trained
    shown = said(capsys, "show", first)
    assert shown["config"]["embedding"]["epochs"] == 2
    assert (shown["users"], shown["items"], shown["sessions"]) == (40, 20, 80)
    assert shown["bytes"] > 1000
    found = said(capsys, "diff", first, second)["differences"]
    assert found.pop("config.embedding.epochs") == [2, 3]
    assert not [name for name in found if name.startswith("config.")]
    assert said(capsys, "diff", first, first)["differences"] == {}


def test_what_the_gate_kept_aside(
    trained: tuple[str, str], capsys: pytest.CaptureFixture[str]
) -> None:
    """It is listed as refused, shown with the reasons, and active once a person says so."""
    first, second = trained
    registry = Registry(Path("data/bundles"))
    verdict = {"passed": False, "reasons": ["worse than popularity [0.1]"]}
    registry.activate(first)
    registry.publish(registry.load(second), verdict)
    listed = said(capsys, "list")
    assert listed["active"] == first
    assert [b["refused"] for b in listed["bundles"]] == [False, True]
    assert said(capsys, "show", first)["gate"] is None
    assert said(capsys, "show", second)["gate"] == verdict
    for words, text in (
        (["list"], "refused"),
        (["show", second], "gate refused: worse than popularity [0.1]"),
        (["activate", second], "the gate had refused it"),
        (["list"], "active"),
    ):
        assert main(["bundles", *words]) == 0
        assert text in " ".join(capsys.readouterr().err.split())
    assert registry.active() == second


@pytest.mark.parametrize(
    ("words", "text"),
    [
        (["show"], "got 0 bundles, 1 needed: recsys bundles show BUNDLE"),
        (["diff", "a"], "got 1 bundles, 2 needed"),
        (["list", "a"], "got 1 bundles, 0 needed"),
        (["activate", "nope"], "no bundle nope in"),
        (["rollback"], "no bundle was active before any"),
    ],
)
def test_mistakes_are_explained(
    words: list[str],
    text: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """With status 2 and what to do."""
    monkeypatch.chdir(tmp_path)
    assert main(["bundles", *words]) == 2
    assert text in " ".join(capsys.readouterr().err.split())


def test_nothing_yet(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """An empty folder lists nothing, and says what fills it."""
    monkeypatch.chdir(tmp_path)
    assert said(capsys, "list") == {"active": None, "previous": None, "bundles": []}


def test_what_servers_withdrew(
    trained: tuple[str, str], capsys: pytest.CaptureFixture[str]
) -> None:
    """It is listed so and shown with the reason; trained again it stays aside, until a person."""
    first, second = trained
    registry = Registry(Path("data/bundles"))
    succession = registry.succession()
    assert succession is not None
    why = {"reason": "live hit rate [0.1]"}
    assert registry.withdraw(succession, why)
    listed = said(capsys, "list")
    assert (listed["active"], [b["withdrawn"] for b in listed["bundles"]]) == (first, [False, True])
    assert said(capsys, "show", second)["withdrawn"] == why
    assert main(["bundles", "show", second]) == 0
    assert "withdrawn: live hit rate [0.1]" in capsys.readouterr().err
    assert main(["train", "clicks.parquet"]) == 1
    assert said(capsys, "list")["active"] == first
    assert main(["bundles", "activate", second]) == 0
    assert "stays now until you take another" in " ".join(capsys.readouterr().err.split())
    assert said(capsys, "list")["active"] == second
