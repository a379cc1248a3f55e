"""The README is run, not believed."""

import re
import shlex
import socket
import subprocess
import sys
import time
from pathlib import Path

import httpx
import pytest

from recsys.cli import main
from recsys.config import Config
from tests.synthetic import checkerboard

ROOT = Path(__file__).parent.parent
README = (ROOT / "README.md").read_text()


def blocks(language: str) -> list[str]:
    return re.findall(rf"```{language}\n(.*?)```", README, re.DOTALL)


def commands(start: str) -> list[str]:
    lines = [line.split("#")[0].strip() for block in blocks("sh") for line in block.splitlines()]
    return [line for line in lines if line.startswith(start)]


@pytest.fixture
def log(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The README's clicks.csv in an otherwise empty folder."""
    monkeypatch.chdir(tmp_path)
    checkerboard().write_csv(tmp_path / "clicks.csv")
    return tmp_path


def test_the_library_lines_run(log: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """A frame in, lists out, as printed."""
    (code,) = blocks("python")
    exec(compile(code, "README.md", "exec"), {})
    assert len(eval(capsys.readouterr().out)) == 5


def test_the_files_named_exist() -> None:
    """Every path the README names is there."""
    named = re.findall(r"`((?:recsys|api|tests|scripts|\.ci)/[\w./]*)`", README)
    named += re.findall(r"\]\(([\w./]+)\)", README)
    assert named
    assert not [path for path in named if not (ROOT / path).exists()]


def test_every_placement_is_explained() -> None:
    """The table has a row for each placement that is there from the start, and for no other."""
    rows = re.findall(r"^\| `(\w+)` \|", README, re.MULTILINE)
    assert rows == list(Config().placements)


def test_your_own_log_in_four_commands(log: Path) -> None:
    """evaluate, tune, train and serve run as they stand, the curl lines get their answers, and
    everybody a list."""
    words = [shlex.split(line)[1:] for line in commands("recsys ")]
    evaluate, tune, train, serve, again, recommend = words
    assert main(evaluate) == 0
    tune[tune.index("30")] = "0.05"
    assert main(tune) == 0
    assert main(train) == 0
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = str(free.getsockname()[1])
    serve[serve.index("8000")] = port
    server = subprocess.Popen(
        [sys.executable, "-m", "recsys.cli", *serve],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    try:
        _wait_for(f"http://127.0.0.1:{port}/health/ready", server)
        for line in commands("curl "):
            answer = _curl(line.replace("localhost:8000", f"127.0.0.1:{port}"))
            assert answer.is_success, (line, answer.text)
        shown = [item["item_id"] for item in answers(commands("curl "), port)]
        assert len(shown) == 5
    finally:
        server.terminate()
        server.wait(20)
    assert main(recommend) == 0
    assert Path("recs.parquet").exists()
    assert again[:2] == ["train", "data/events"]
    assert main(again) == 0


def answers(lines: list[str], port: str) -> list[dict[str, str]]:
    """The items of the README's first recommendation."""
    line = next(line for line in lines if "recommendations" in line)
    items: list[dict[str, str]] = _curl(line.replace("localhost:8000", f"127.0.0.1:{port}")).json()[
        "items"
    ]
    return items


def _curl(line: str) -> httpx.Response:
    """Do what a curl line says, on a machine that may have no curl."""
    words = shlex.split(line)[1:]
    url = next(word for word in words if "127.0.0.1" in word)
    headers = dict(words[words.index("-H") + 1].split(": ") for _ in "1" if "-H" in words)
    if "-d" in words:
        body = words[words.index("-d") + 1]
        method = words[words.index("-X") + 1] if "-X" in words else "POST"
        return httpx.request(method, f"http://{url}", content=body, headers=headers)
    return httpx.get(f"http://{url}")


def _wait_for(url: str, server: subprocess.Popen[bytes]) -> None:
    deadline = time.monotonic() + 60
    while time.monotonic() < deadline:
        assert server.poll() is None, "the server ended"
        try:
            if httpx.get(url).is_success:
                return
        except httpx.TransportError:
            pass
        time.sleep(0.1)
    raise AssertionError("the server did not get ready")
