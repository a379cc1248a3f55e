"""`recsys bundles`: what is published, what differs, which one serves."""

import argparse
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

from recsys.registry import Registry, RegistryError

Manifest = dict[str, Any]


def run(arguments: argparse.Namespace, console: Console) -> dict[str, Any]:
    """Do what was asked and show it; returns the same as plain JSON values.

    Raises RegistryError.
    """
    registry = Registry(Path(arguments.data_dir) / "bundles")
    return ACTIONS[arguments.action](registry, arguments.versions, arguments.keep, console)


def _list(registry: Registry, versions: list[str], _keep: int, console: Console) -> dict[str, Any]:
    _expect(versions, 0, "list")
    active, rows = registry.active(), []
    table = Table(
        "bundle", "trained", "events", "users", "items", "ranking", "", title_justify="left"
    )
    for version in registry.versions():
        row = {
            "bundle": version,
            "active": version == active,
            "refused": registry.refused(version),
            "withdrawn": registry.withdrawn(version) is not None,
            **_summary(registry, version),
        }
        rows.append(row)
        counts = [_text(row[name]) for name in ("events", "users", "items")]
        mark = next((name for name in ("active", "withdrawn", "refused") if row[name]), "")
        table.add_row(version, row["trained"], *counts, row["ranker"], mark)
    console.print(table if rows else f"no bundle in {registry.path} yet: recsys train LOG")
    return {"active": active, "previous": registry.previous(), "bundles": rows}


def _show(registry: Registry, versions: list[str], _keep: int, console: Console) -> dict[str, Any]:
    _expect(versions, 1, "show BUNDLE")
    manifest = registry.manifest(versions[0])
    size = sum(file["bytes"] for file in manifest["files"].values())
    shown = {"bundle": versions[0], **_summary(registry, versions[0]), "bytes": size}
    table = Table(title=f"bundle {versions[0]}", show_header=False, title_justify="left")
    for name, value in _flat(shown).items():
        table.add_row(name, _text(value))
    console.print(table)
    gate = registry.verdict(versions[0])
    if gate:
        word = "passed" if gate["passed"] else "refused"
        for reason in gate["reasons"]:
            console.print(f"gate {word}: {reason}", highlight=False, markup=False)
    withdrawn = registry.withdrawn(versions[0])
    if withdrawn:
        console.print(f"withdrawn: {withdrawn['reason']}", highlight=False, markup=False)
    facts = {"features": manifest["facts"]["features"], "config": manifest["config"]}
    return {**shown, "gate": gate, "withdrawn": withdrawn, **facts}


def _diff(registry: Registry, versions: list[str], _keep: int, console: Console) -> dict[str, Any]:
    _expect(versions, 2, "diff BUNDLE BUNDLE")
    first, second = (
        _flat({**_summary(registry, version), "config": registry.manifest(version)["config"]})
        for version in versions
    )
    names = sorted(first.keys() | second.keys())
    found = {
        name: [first.get(name), second.get(name)]
        for name in names
        if first.get(name) != second.get(name)
    }
    table = Table("", *versions, title_justify="left")
    for name, pair in found.items():
        table.add_row(name, *map(_text, pair))
    console.print(table if found else "they differ in nothing but what was learned")
    return {"bundles": versions, "differences": found}


def _activate(
    registry: Registry, versions: list[str], _keep: int, console: Console
) -> dict[str, Any]:
    _expect(versions, 1, "activate BUNDLE")
    before = registry.active()
    registry.activate(versions[0])
    if registry.refused(versions[0]):
        console.print("[yellow]the gate had refused it; `recsys bundles show` says why[/]")
    if registry.withdrawn(versions[0]):
        console.print(
            "[yellow]servers had rolled back from it; `recsys bundles show` says why. It stays now "
            "until you take another[/]"
        )
    elif registry.succession():
        console.print("servers go back by themselves if live visitors show that it is worse")
    console.print(f"{versions[0]} is active, after {before or 'none'}", highlight=False)
    return {"active": versions[0], "before": before}


def _rollback(
    registry: Registry, versions: list[str], _keep: int, console: Console
) -> dict[str, Any]:
    _expect(versions, 0, "rollback")
    before = registry.active()
    active = registry.rollback()
    console.print(f"{active} is active again, instead of {before}", highlight=False)
    return {"active": active, "before": before}


def _prune(registry: Registry, versions: list[str], keep: int, console: Console) -> dict[str, Any]:
    _expect(versions, 0, "prune --keep N")
    removed = registry.prune(keep)
    console.print(f"removed: {', '.join(removed) or 'nothing'}", highlight=False)
    return {"removed": removed, "bundles": registry.versions()}


# Every action is one function and one line here, and its name in the command line.
ACTIONS: dict[str, Callable[[Registry, list[str], int, Console], dict[str, Any]]] = {
    "list": _list,
    "show": _show,
    "diff": _diff,
    "activate": _activate,
    "rollback": _rollback,
    "prune": _prune,
}


def _expect(versions: list[str], count: int, usage: str) -> None:
    if len(versions) != count:
        raise RegistryError(
            f"got {len(versions)} bundles, {count} needed: recsys bundles {usage}; "
            "`recsys bundles list` shows those there are"
        )


def _summary(registry: Registry, version: str) -> Manifest:
    facts = registry.manifest(version)["facts"]
    line = facts.get("line", [])  # bundles of before there were refits say nothing of them
    trained = time.localtime((registry.path / version).stat().st_mtime)
    return {
        "trained": time.strftime("%Y-%m-%d %H:%M", trained),
        **facts["counts"],
        "cutoff": facts["cutoff"],
        "clock": facts["clock"],
        "ranker": facts["ranker"],
        "exclude_bought": facts["exclude_bought"],
        "refit_of": line[-1] if line else "",
        "refits": len(line),  # since the last full training
        "metrics": facts["metrics"],
    }


def _flat(data: Manifest, where: str = "") -> Manifest:
    """Nested tables as one, names joined by dots."""
    flat: Manifest = {}
    for name, value in data.items():
        place = f"{where}{name}"
        flat |= _flat(value, f"{place}.") if isinstance(value, dict) else {place: value}
    return flat


def _text(value: Any) -> str:
    return f"{value:,}" if isinstance(value, int) and not isinstance(value, bool) else str(value)
