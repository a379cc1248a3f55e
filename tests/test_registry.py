"""Which bundle serves: activation, rollback, pruning."""

import contextlib
import dataclasses
import os
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

from recsys.bundle import Bundle, sealed
from recsys.registry import Registry, RegistryError
from recsys.training import train
from tests.synthetic import checkerboard, small_config


@pytest.fixture(scope="module")
def bundle() -> Bundle:
    return train(checkerboard(), small_config())


@pytest.fixture
def shelf(bundle: Bundle, tmp_path: Path) -> tuple[Registry, list[str]]:
    """Four bundles published one after another."""
    registry = Registry(tmp_path / "bundles")
    versions = []
    for k in range(4):
        facts = dataclasses.replace(bundle.facts, metrics={"quality": float(k)})
        versions.append(registry.publish(sealed(dataclasses.replace(bundle, facts=facts))))
        os.utime(registry.path / versions[-1], (k, k))
    return registry, versions


def test_a_rollback_walks_back(shelf: tuple[Registry, list[str]]) -> None:
    """From one to the one before, not to and fro; what is activated then comes on top."""
    registry, (a, b, c, d) = shelf
    assert registry.active() == d
    assert [registry.rollback(), registry.rollback()] == [c, b]
    assert registry.load().version == b
    registry.activate(d)
    registry.activate(d)
    assert [registry.rollback(), registry.rollback()] == [b, a]
    with pytest.raises(RegistryError, match=f"no bundle was active before {a}"):
        registry.rollback()
    assert registry.active() == a


def test_a_rollback_passes_over_what_is_gone(shelf: tuple[Registry, list[str]]) -> None:
    """A pruned version is no aim."""
    registry, (a, b, c, d) = shelf
    registry.activate(a)
    registry.activate(d)
    assert registry.prune(1) == [b, c]
    assert registry.versions() == [a, d]
    assert registry.rollback() == a


def test_pruning_spares_what_may_serve(shelf: tuple[Registry, list[str]]) -> None:
    """The newest, the active one and that of a rollback stay, and a loaded one goes on working."""
    registry, (a, b, c, d) = shelf
    registry.activate(b)
    loaded = registry.load(c)
    assert registry.prune(0) == [a, c]
    assert registry.versions() == [b, d]
    assert loaded.popularity.counts.sum() > 0
    assert registry.load().version == b
    assert not list(registry.path.glob(".prune*"))
    with pytest.raises(RegistryError, match="--keep: must not be negative"):
        registry.prune(-1)


def test_unknown_versions_are_named(shelf: tuple[Registry, list[str]]) -> None:
    """With the nearest known one and all there are; nothing changes."""
    registry, versions = shelf
    close = versions[0][:-1] + ("0" if versions[0][-1] != "0" else "1")
    for asked in (registry.activate, registry.manifest, registry.load):
        with pytest.raises(RegistryError, match=f"did you mean '{versions[0]}'.*{versions[3]}"):
            asked(close)
    assert registry.active() == versions[3]


REFUSED = {"passed": False, "reasons": ["worse than the active bundle"]}
PASSED = {"passed": True, "reasons": ["better than popularity"]}


@pytest.fixture
def other(bundle: Bundle) -> Bundle:
    """A bundle that is on no shelf yet."""
    return sealed(dataclasses.replace(bundle, facts=dataclasses.replace(bundle.facts, clock="?")))


def test_what_is_refused_is_kept_aside(shelf: tuple[Registry, list[str]], other: Bundle) -> None:
    """It is there with its verdict, another serves, and no rollback goes to it."""
    registry, versions = shelf
    registry.publish(other, REFUSED)
    assert registry.versions()[-1] == other.version
    assert registry.active() == versions[-1]
    assert (registry.refused(other.version), registry.verdict(other.version)) == (True, REFUSED)
    assert registry.load(other.version).version == other.version
    assert [registry.rollback() for _ in versions[1:]] == versions[-2::-1]
    with pytest.raises(RegistryError, match="no bundle was active before"):
        registry.rollback()


def test_the_first_may_be_refused(bundle: Bundle, tmp_path: Path) -> None:
    """Then there is a bundle and none is active."""
    registry = Registry(tmp_path / "bundles")
    registry.publish(bundle, REFUSED)
    assert (registry.versions(), registry.active()) == ([bundle.version], None)


def test_a_person_may_activate_what_was_refused(
    shelf: tuple[Registry, list[str]], other: Bundle
) -> None:
    """The verdict stays, and from then on a rollback may go to it."""
    registry, versions = shelf
    registry.publish(other, REFUSED)
    registry.activate(other.version)
    assert registry.load().version == other.version
    assert registry.refused(other.version)
    assert registry.rollback() == versions[-1]
    registry.activate(versions[0])
    registry.activate(other.version)
    registry.activate(versions[1])
    assert registry.rollback() == other.version


def test_what_passes_is_active_and_keeps_its_verdict(
    shelf: tuple[Registry, list[str]], other: Bundle
) -> None:
    """Also what an earlier verdict refused; what was not judged has none."""
    registry, versions = shelf
    registry.publish(other, REFUSED)
    registry.publish(other, PASSED)
    assert registry.active() == other.version
    assert (registry.refused(other.version), registry.verdict(other.version)) == (False, PASSED)
    assert registry.verdict(versions[0]) is None


def test_what_was_refused_is_pruned_like_others(
    shelf: tuple[Registry, list[str]], other: Bundle
) -> None:
    """With its verdict."""
    registry, (*_, previous, active) = shelf
    registry.publish(other, REFUSED)
    assert registry.prune(1) == shelf[1][:2]
    assert registry.versions() == [previous, active, other.version]
    assert registry.prune(0) == [other.version]
    assert registry.verdict(other.version) is None


@pytest.mark.parametrize("verdict", [REFUSED, PASSED], ids=["refused", "passed"])
@pytest.mark.parametrize("steps", [0, 1, 2, 3])
def test_a_crash_on_the_way(
    verdict: dict[str, Any],
    steps: int,
    shelf: tuple[Registry, list[str]],
    other: Bundle,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """After any step no bundle is there without its verdict, and none but a passed one active."""
    registry, versions = shelf
    rename, done = Path.rename, []

    def some(path: Path, target: Path) -> Path:
        if len(done) == steps:
            raise SystemExit("killed")
        done.append(target.name)
        return rename(path, target)

    monkeypatch.setattr(Path, "rename", some)
    killed = steps < (3 if verdict["passed"] else 2)
    with pytest.raises(SystemExit) if killed else contextlib.nullcontext():
        registry.publish(other, verdict)
    monkeypatch.undo()
    assert done == [f"{other.version}.json", other.version, "CURRENT"][: len(done)]
    if other.version in registry.versions():
        assert registry.verdict(other.version) == verdict
    whole = verdict["passed"] and not killed
    assert registry.active() == (other.version if whole else versions[-1])
    registry.publish(other, verdict)
    assert not list(registry.path.glob("**/.*"))


def test_a_damaged_verdict_is_named(bundle: Bundle, tmp_path: Path) -> None:
    """With what to do about it."""
    registry = Registry(tmp_path / "bundles")
    registry.publish(bundle, REFUSED)
    (registry.path / "VERDICTS" / f"{bundle.version}.json").write_text("{")
    with pytest.raises(RegistryError, match=r"no readable verdict: .*; remove the file"):
        registry.refused(bundle.version)


WHY = {"reason": "live hit rate fell"}


def test_what_live_visitors_speak_against_is_withdrawn_once(
    shelf: tuple[Registry, list[str]], bundle: Bundle
) -> None:
    """The former serves again, which is on no probation; the one withdrawn is kept aside."""
    registry, (*_, c, d) = shelf
    found = registry.succession()
    assert found is not None
    assert (found.version, found.former) == (d, c)
    assert registry.withdraw(found, WHY)
    assert (registry.active(), registry.withdrawn(d), registry.succession()) == (c, WHY, None)
    assert not registry.withdraw(found, {"reason": "another worker, a moment later"})
    assert registry.withdrawn(d) == WHY
    facts = dataclasses.replace(bundle.facts, metrics={"quality": 3.0})
    assert registry.publish(sealed(dataclasses.replace(bundle, facts=facts))) == d
    assert registry.active() == c


def test_a_person_is_not_overruled(shelf: tuple[Registry, list[str]]) -> None:
    """Neither who chose another bundle before, nor who takes one again that was withdrawn."""
    registry, (a, *_, d) = shelf
    found = registry.succession()
    assert found is not None
    registry.activate(a)
    assert not registry.withdraw(found, WHY)
    assert (registry.active(), registry.withdrawn(d)) == (a, None)
    registry.activate(d)
    again = registry.succession()
    assert again is not None
    assert (again.version, again.former) == (d, a)
    assert again.name != found.name
    assert registry.withdraw(again, WHY)
    registry.activate(d)
    assert (registry.active(), registry.succession()) == (d, None)
    registry.rollback()
    assert registry.succession() is None


def test_the_first_takes_nobodys_place(bundle: Bundle, tmp_path: Path) -> None:
    """Nor is there one before anything was published; activated twice, it is the first still."""
    registry = Registry(tmp_path / "bundles")
    assert registry.succession() is None
    registry.publish(bundle)
    registry.activate(bundle.version)
    assert registry.succession() is None


def test_two_processes_move_the_pointer_one_after_the_other(
    shelf: tuple[Registry, list[str]],
) -> None:
    """Of many that found the same bundle worse one withdraws it, and the history tells of one."""
    registry, (*_, c, _) = shelf
    found = registry.succession()
    assert found is not None
    with ThreadPoolExecutor(8) as pool:
        done = list(pool.map(lambda _: Registry(registry.path).withdraw(found, WHY), range(8)))
    assert done.count(True) == 1
    moves = (registry.path / "HISTORY").read_text().split()
    assert (registry.active(), moves.count("rolled-back-to"), moves[-1]) == (c, 1, c)


def test_why_it_was_withdrawn_is_pruned_with_it(shelf: tuple[Registry, list[str]]) -> None:
    """Nothing is left of a version."""
    registry, (*_, d) = shelf
    found = registry.succession()
    assert found is not None
    registry.withdraw(found, WHY)
    assert d in registry.prune(0)
    assert registry.withdrawn(d) is None
