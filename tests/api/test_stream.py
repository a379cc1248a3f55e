"""`recsys stream` as a command."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

from api.stream import stream
from recsys.embedded import EmbeddedRedis
from recsys.events import Event, InputError
from recsys.itemfiles import ITEMS, load_items
from recsys.items import Item, change_of
from recsys.logs import load_log
from recsys.store import Lag, Store, StoreUrlError

NOW = 1_800_000_000.0  # Unix seconds

pytestmark = pytest.mark.anyio


async def test_once_writes_what_there_is(
    store: Store,
    redis_server: EmbeddedRedis,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """All accepted events are in the folder that training reads, and the summary counts them."""
    monkeypatch.setenv("RECSYS_NAMESPACE", store.config.namespace)
    clicks = [Event("click", f"s{k}", f"i{k}", timestamp=NOW + k) for k in range(40)]
    await store.append(clicks)
    assert stream(tmp_path, redis_server.url, once=True, as_json=True) == 0
    summary = json.loads(capsys.readouterr().out.splitlines()[-1])
    assert summary == {"written": 40, "folder": str(tmp_path / "events")}
    assert load_log([tmp_path / "events"], now=NOW + 100).kept == 40
    assert await store.lag() == Lag(0, None)
    assert stream(tmp_path, redis_server.url, once=True, as_json=True) == 0
    assert json.loads(capsys.readouterr().out.splitlines()[-1])["written"] == 0


async def test_training_is_told_what_the_shop_says(
    store: Store, redis_server: EmbeddedRedis, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The catalogue is beside the files, without what was deleted; a file stays where there is no
    catalogue any more."""
    monkeypatch.setenv("RECSYS_NAMESPACE", store.config.namespace)
    assert stream(tmp_path, redis_server.url, once=True) == 0
    assert not (tmp_path / ITEMS).exists()
    changes = [(f"i{k}", change_of({"title": f'"{k}"', "price": k})) for k in range(1200)]
    await store.put_items(changes)
    await store.delete_item("i7")
    assert stream(tmp_path, redis_server.url, once=True) == 0
    items = load_items([tmp_path / ITEMS])
    assert len(items) == 1199
    assert items["i8"] == Item(title='"8"', price=8.0)


def test_without_a_redis_the_embedded_one_is_read(tmp_path: Path) -> None:
    """Of the data directory; nothing accepted yet is nothing to write."""
    assert stream(tmp_path, once=True) == 0
    assert (tmp_path / "redis").is_dir()


def test_wrong_input_is_explained(tmp_path: Path) -> None:
    """Times that are none, addresses that are none, and a Redis that is not there."""
    with pytest.raises(InputError, match="--every: must be above 0"):
        stream(tmp_path, every=0)
    with pytest.raises(StoreUrlError, match="is not a Redis URL"):
        stream(tmp_path, "localhost:6379")
    with pytest.raises(RuntimeError, match=r"redis://:\*\*\*@127.0.0.1:1/0: "):
        stream(tmp_path, "redis://:pw@127.0.0.1:1/0", once=True)


INTERRUPTED = """
import os, signal
from api.stream import stopping

with stopping(signal.SIGTERM) as stop:
    with stop._cond:  # as one is that waits for it, or sets it
        os.kill(os.getpid(), signal.SIGTERM)
    assert stop.wait(20.0)
"""


def test_a_signal_amid_another_one_stops() -> None:
    """Whatever a signal interrupts, a wait for what it sets included, goes on and sees it."""
    command = [sys.executable, "-c", INTERRUPTED]
    assert subprocess.run(command, timeout=60, check=False).returncode == 0
