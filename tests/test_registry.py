"""Which bundle serves: activation, rollback, pruning."""

import dataclasses
import os
from pathlib import Path

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
