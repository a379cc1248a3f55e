"""Parity and read-your-clicks on a log, in one command."""

from pathlib import Path

import orjson
import pytest

from api.live_check import main
from recsys.config import Config
from tests.test_training import circle

CONFIG = """
[embedding]
embedding_size = 8
epochs = 5
[session_embedding]
embedding_size = 8
negatives = 32
batch = 64
[ranker]
min_requests = 50
tail = 0.3
trees = 20
min_leaf = 5
[placements.varied]
exclude = ["any"]
diversity = 0.5
"""


def test_a_log_is_proved_in_one_command(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    """Trains on the past, with the ranker, and checks every placement of the configuration."""
    circle(sessions=600, items=40).rename({"item_id": "sku"}).write_parquet(tmp_path / "c.parquet")
    (tmp_path / "recsys.toml").write_text(CONFIG)
    asked = [str(tmp_path / "c.parquet"), "--columns", "item_id=sku", "--holdout", "0.2"]
    settings = ["--config", str(tmp_path / "recsys.toml"), "--connections", "8"]
    assert main([*asked, *settings, "--lists", "40", "--pairs", "100"]) == 0
    result = orjson.loads(capfd.readouterr().out)
    placements = [*Config().placements, "varied"]
    assert result["ranker"].startswith("forest of 20 trees")
    parity, fresh = result["parity"], result["read_your_clicks"]
    assert parity["placements"] == {key: {"lists": 40, "differences": 0} for key in placements}
    assert parity["tiers"].keys() == {"ranker"}
    assert (fresh["checked"], fresh["stale"]) == (100, 0)
    assert {name: part["checked"] for name, part in fresh["placements"].items()} == dict.fromkeys(
        placements, 20
    )


def test_a_log_that_cannot_be_cut_is_wrong_input(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Status 2, and the text of the library's own error."""
    circle(sessions=5).write_parquet(tmp_path / "c.parquet")
    assert main([str(tmp_path / "c.parquet"), "--holdout", "3d"]) == 2
    assert "choose a shorter one" in capsys.readouterr().err
