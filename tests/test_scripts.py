"""The shell scripts can be run from a fresh checkout anywhere."""

import os
import re
import subprocess
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
VERBS = [ROOT / "scripts" / name for name in ("demo", "test", "check", "bench-ranking")] + [
    ROOT / ".ci" / "run"
]
SHELL = [*VERBS, ROOT / "scripts" / "setup-env"]


@pytest.mark.parametrize("script", VERBS, ids=lambda path: path.name)
def test_verbs_are_executable_and_strict(script: Path) -> None:
    """A verb runs as it is, and ends at the first thing that goes wrong."""
    assert os.access(script, os.X_OK)
    text = script.read_text()
    assert text.startswith("#!/usr/bin/env bash\n")
    assert "set -euo pipefail" in text


@pytest.mark.parametrize("script", SHELL, ids=lambda path: path.name)
def test_scripts_parse(script: Path) -> None:
    """Bash accepts every script."""
    checked = subprocess.run(["bash", "-n", script], capture_output=True, text=True, check=False)
    assert checked.returncode == 0, checked.stderr


@pytest.mark.parametrize("script", SHELL, ids=lambda path: path.name)
def test_scripts_name_no_place_of_one_machine(script: Path) -> None:
    """Paths start at the checkout; only bash itself and /dev/null lie elsewhere."""
    absolute = re.findall(r"(?<![\w.})*/])/\w[\w/.-]*", script.read_text())
    assert set(absolute) <= {"/usr/bin/env", "/dev/null"}


STUB = """#!/usr/bin/env bash
# Stands for an environment's Python: answers as pip would, until told to break in mid-installation.
case "$*" in
    "-m pip install"*) echo installed >> "{calls}"; [[ ! -e "{broken}" ]] ;;
    *) echo 1 ;;
esac
"""


def test_an_interrupted_installation_is_begun_again(tmp_path: Path) -> None:
    """An environment is trusted once its installation came to its end, and only then."""
    (tmp_path / "scripts").mkdir()
    helper = tmp_path / "scripts" / "setup-env"
    helper.write_text((ROOT / "scripts" / "setup-env").read_text())
    calls, broken, stub = (tmp_path / name for name in ("calls", "broken", "stub"))
    stub.write_text(STUB.format(calls=calls, broken=broken))
    stub.chmod(0o755)
    steps = f"""
        set -euo pipefail
        source "{helper}"
        _make_env() {{
            echo made >> "{calls}"
            rm -rf "$VENV"; mkdir -p "$VENV/bin"; cp "{stub}" "$VENV/bin/python"
        }}
        setup_env test
        setup_env test
        touch "{broken}"; rm "$VENV/.installed-test"
        if setup_env test; then exit 9; fi
        rm "{broken}"
        setup_env test
        setup_env test
    """
    done = subprocess.run(["bash", "-c", steps], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert calls.read_text().split() == ["made", "installed", "installed", "made", "installed"]
