"""Bundles on disk, and their publication."""

import contextlib
import dataclasses
import errno
import resource
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import orjson
import pytest

from recsys import bundle as bundles
from recsys.bundle import Bundle, BundleError
from recsys.events import Event
from recsys.recommend import Request, recommend
from recsys.registry import Registry, RegistryError
from recsys.session import Session
from recsys.training import train
from tests.synthetic import checkerboard, small_config


@pytest.fixture(scope="module")
def bundle() -> Bundle:
    return train(checkerboard(), small_config())


@pytest.fixture
def registry(tmp_path: Path) -> Registry:
    return Registry(tmp_path / "bundles")


def test_a_loaded_bundle_answers_the_same(bundle: Bundle, registry: Registry) -> None:
    """Through disk and memory map, every list and score stays."""
    registry.publish(bundle)
    loaded = registry.load()
    assert loaded.version == bundle.version
    assert loaded.config == bundle.config
    assert loaded.facts == bundle.facts
    session = Session.from_events([Event("view", "s", "i3")], user_id="u4")
    one, two = (recommend(b, session, Request(n=20)) for b in (bundle, loaded))
    assert dataclasses.replace(one, timings=two.timings) == two


def test_nothing_is_pickled(bundle: Bundle, registry: Registry) -> None:
    """A bundle folder holds arrays, JSON and at most a FAISS file, memory-mapped when loaded."""
    registry.publish(bundle)
    kinds = {path.suffix for path in (registry.path / bundle.version).iterdir()}
    assert kinds == {".npy", ".json"}
    assert isinstance(registry.load().embedding.item_factors.base, np.memmap)


def test_what_is_written_to_a_loaded_bundle_stays_in_memory(
    bundle: Bundle, registry: Registry
) -> None:
    """Its files are mapped, and belong to whoever loads them next."""
    version = registry.publish(bundle)
    loaded = registry.load(version)
    loaded.popularity.counts[:] = 0
    again = registry.load(version)
    assert again.version == version
    assert np.array_equal(again.popularity.counts, bundle.popularity.counts)


def test_the_same_log_configuration_and_seed_give_the_same_version(bundle: Bundle) -> None:
    """Training is reproducible; another seed or setting is another version."""
    again = train(checkerboard(), small_config())
    assert again.version == bundle.version
    other = train(checkerboard(), small_config(training={"seed": 7}))
    assert other.version != bundle.version
    setting = train(checkerboard(), small_config(session={"decay": 0.9}))
    assert setting.version != bundle.version


@pytest.mark.parametrize("kind", ["ivf", "hnsw", "sq8"])
def test_an_approximate_index_travels_with_its_recall(kind: str, registry: Registry) -> None:
    """The measured recall is stored, the index loads from its file."""
    bundle = train(checkerboard(), small_config(index={"kind": kind, "recall_at": 5}))
    registry.publish(bundle)
    loaded = registry.load()
    assert loaded.index.approximate is not None
    assert 0.3 < loaded.facts.metrics["index_recall@5"] <= 1


def damage(folder: Path, how: str) -> None:
    victim = folder / "popularity.counts.npy"
    if how == "altered":
        data = bytearray(victim.read_bytes())
        data[-1] ^= 1
        victim.write_bytes(data)
    elif how == "truncated":
        victim.write_bytes(victim.read_bytes()[:-3])
    elif how == "missing":
        victim.unlink()
    elif how == "manifest":
        manifest = folder / bundles.MANIFEST
        manifest.write_text(manifest.read_text().replace('"decay": 0.6', '"decay": 0.7'))
    else:
        (folder / bundles.MANIFEST).write_text("{")


@pytest.mark.parametrize("how", ["altered", "truncated", "missing", "manifest", "garbled"])
def test_a_damaged_bundle_is_refused_and_can_be_published_again(
    bundle: Bundle, registry: Registry, how: str
) -> None:
    """Any altered byte is noticed; publishing the same content repairs it."""
    registry.publish(bundle)
    damage(registry.path / bundle.version, how)
    with pytest.raises(BundleError):
        registry.load()
    registry.publish(bundle)
    assert registry.load().version == bundle.version


def test_what_was_found_right_is_not_read_again(
    bundle: Bundle, registry: Registry, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """Until somebody touches it: a copy, or a file written again, is looked at whole."""
    read: list[str] = []
    whole = bundles._sha256

    def hashed(path: Path) -> str:
        read.append(path.name)
        return whole(path)

    monkeypatch.setattr(bundles, "_sha256", hashed)
    registry.publish(bundle)
    folder = registry.path / bundle.version
    files = orjson.loads((folder / bundles.MANIFEST).read_bytes())["files"]
    read.clear()
    bundles.load(folder)
    assert read == []
    (folder / "users.text.npy").write_bytes((folder / "users.text.npy").read_bytes())
    bundles.load(folder)
    bundles.load(folder)
    assert read == ["users.text.npy"]
    read.clear()
    shutil.copytree(folder, tmp_path / "copy")
    bundles.load(tmp_path / "copy")
    assert sorted(read) == sorted(files)
    read.clear()
    bundles.load(tmp_path / "copy")
    assert read == []


def test_what_is_touched_while_others_are_read_is_read_again(
    bundle: Bundle, registry: Registry, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """What is noted of a file is how it stood before it was found right."""
    registry.publish(bundle)
    folder = tmp_path / "copy"
    shutil.copytree(registry.path / bundle.version, folder)
    *_, last = orjson.loads((folder / bundles.MANIFEST).read_bytes())["files"]
    whole = bundles._sha256

    def hashed(path: Path) -> str:
        if path.name == last:
            damage(folder, "altered")
        return whole(path)

    monkeypatch.setattr(bundles, "_sha256", hashed)
    bundles.load(folder)
    with pytest.raises(BundleError, match="popularity"):
        bundles.load(folder)


@pytest.mark.parametrize("noted", [b"", b"[]", b"7", b'{"\\u0000": 1}', b'{"users.text.npy": 1}'])
def test_notes_that_are_none_are_passed_over(
    bundle: Bundle, registry: Registry, noted: bytes
) -> None:
    """All is looked at whole, and noted again."""
    registry.publish(bundle)
    folder = registry.path / bundle.version
    right = (folder / bundles.NOTED).read_bytes()
    (folder / bundles.NOTED).write_bytes(noted)
    assert registry.load().version == bundle.version
    assert (folder / bundles.NOTED).read_bytes() == right


def test_no_bundle_yet_says_what_to_run(registry: Registry) -> None:
    """An empty registry has no active bundle and names the command that makes one."""
    assert registry.active() is None
    with pytest.raises(RegistryError, match="run `recsys train LOG --data-dir"):
        registry.load()
    with pytest.raises(RegistryError, match="no bundle nope"):
        registry.load("nope")


@contextlib.contextmanager
def files_no_larger_than(size: int) -> Iterator[None]:
    """Real writes fail beyond a size, as they do on a full disk, without filling one."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


def test_a_failed_write_leaves_the_active_bundle(bundle: Bundle, registry: Registry) -> None:
    """A write that fails half-way: its cause, nothing half-written, the old bundle serves on."""
    registry.publish(bundle)
    before = sorted(path.name for path in registry.path.iterdir())
    other = train(checkerboard(), small_config(training={"seed": 9}))
    with (
        files_no_larger_than(600),
        pytest.raises(RegistryError, match=f"File too large; .* bundle {bundle.version} stays"),
    ):
        registry.publish(other)
    assert sorted(path.name for path in registry.path.iterdir()) == before
    assert registry.load().version == bundle.version


def test_a_full_disk_is_called_so(
    bundle: Bundle, registry: Registry, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The system's ENOSPC is said in words, and that nothing is active where nothing was."""

    def full(*_args: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(bundles, "fsync", full)
    with pytest.raises(RegistryError, match=r"the disk is full; .* there is no active bundle yet"):
        registry.publish(bundle)
    assert list(registry.path.iterdir()) == []


def test_threads_do_not_change_the_version(bundle: Bundle) -> None:
    """One thread, two or all that OpenMP allows: the same arrays, the same hash."""
    for threads in (1, 2):
        config = small_config(training={"threads": threads})
        assert train(checkerboard(), config).version == bundle.version


PUBLISHER = """
import os, random, signal, sys, time
from pathlib import Path
from recsys.registry import Registry
from recsys.training import train
from tests.synthetic import checkerboard, small_config

registry = Registry(Path(sys.argv[1]))
pair = [train(checkerboard(), small_config(training={"seed": s})) for s in (1, 2)]
registry.publish(pair[0])
start = time.perf_counter()
registry.publish(pair[1])
span = time.perf_counter() - start
rng = random.Random(3)
interrupted = 0
for k in range(50):
    old, new = registry.active(), pair[k % 2]
    for path in registry.path.glob(new.version + "/*"):
        if new.version != old:
            path.unlink()  # so that the whole folder is written again
    child = os.fork()
    if child == 0:
        registry.publish(new)
        os._exit(0)
    time.sleep(rng.uniform(0, 1.3 * span))
    os.kill(child, signal.SIGKILL)
    killed = os.WIFSIGNALED(os.waitpid(child, 0)[1])
    interrupted += killed
    if not killed:
        span *= 0.8  # the machine has become faster
    active = registry.load().version
    assert active in (old, new.version), (active, old, new.version)
registry.publish(pair[0])
left = [p.name for p in registry.path.iterdir() if p.name.startswith(".")]
assert not left, left
print(interrupted)
"""


def test_killed_at_50_moments_of_publishing(tmp_path: Path) -> None:
    """After SIGKILL at any moment the active bundle loads and is the old or the new one, whole."""
    run = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", PUBLISHER, str(tmp_path / "bundles")],
        capture_output=True,
        text=True,
        timeout=120,
        cwd=Path(__file__).parent.parent,
    )
    assert run.returncode == 0, run.stderr
    assert int(run.stdout) >= 20  # most kills came before the end
