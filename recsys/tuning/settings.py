"""Settings: a tuned configuration as a TOML file that a person can read.

Only what differs from the defaults is in it, each setting with what it was and what it brought.
"""

import os
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import orjson
import tomli_w
from rich.table import Table

from recsys.config import Config
from recsys.metrics import Estimate
from recsys.tuning.stages import Found
from recsys.tuning.tune import Tuned

Place = tuple[str, ...]  # of a setting: its tables and its name


def text_of(tuned: Tuned) -> str:
    """The file's text; `recsys.config.load_config` reads it as ``tuned.config``, but for "auto"."""
    stages = tuned.found if tuned.better else []
    found = {tuple(name.split(".")): f for f in stages for name in f.kept}
    defaults = Config().settled(simultaneous=tuned.simultaneous)
    tables: dict[Place, list[str]] = {}
    config = tuned.config.settled(simultaneous=tuned.simultaneous)
    for place, value in differences(config.to_dict(), defaults.to_dict()):
        lines = tables.setdefault(place[:-1], [])
        if place in found:
            lines.append(f"# {_reason('.'.join(place), found[place], tuned)}")
        lines.append(tomli_w.dumps({place[-1]: value}).rstrip())
    parts = ["\n".join(f"# {line}" for line in _head(tuned))]
    for table, lines in tables.items():
        about = [f"# {_result(f)}" for f in stages if _within(table, f)]
        parts.append("\n".join([f"[{'.'.join(map(_key, table))}]", *about, *lines]))
    return "\n\n".join(parts) + "\n"


def summary_of(tuned: Tuned) -> Table:
    """What was found, as a table for a terminal."""
    table = Table("stage", "trials", "mark", "gain, 95 %", "found", title="\n".join(_head(tuned)))
    for found in tuned.found:
        marks = "" if found.marks is None else "{:.4f} -> {:.4f}".format(*found.marks)
        gain = "" if found.gain is None else _interval(found.gain)
        values = [f"{name.partition('.')[2]} {value}" for name, value in found.kept.items()]
        table.add_row(found.stage, str(found.trials), marks, gain, "\n".join(values) or "as it was")
    for source in tuned.sources:
        gain = f"{source.gain:+.4f}"
        state = "on" if source.on else "off"
        table.add_row(source.source, "", f"{source.microseconds:.0f} us", gain, state)
    return table


def write(text: str, path: Path) -> None:
    """Write a file whole or not at all."""
    aside = path.with_name(f".{path.name}-{os.getpid()}")
    try:
        with aside.open("w", encoding="utf-8") as file:
            file.write(text)
            file.flush()
            os.fsync(file.fileno())
        aside.rename(path)
    finally:
        aside.unlink(missing_ok=True)


def differences(
    data: dict[str, Any], defaults: dict[str, Any], where: Place = ()
) -> Iterator[tuple[Place, Any]]:
    """Every setting that has not its default, and its value."""
    for name, value in data.items():
        place, default = (*where, name), defaults.get(name)
        if isinstance(value, dict):
            yield from differences(value, default or {}, place)
        elif name not in defaults or value != default:
            yield place, value


def _head(tuned: Tuned) -> list[str]:
    aim = tuned.aim
    prefix = f" from {aim.min_prefix} events on" if aim.min_prefix > 1 else ""
    lines = [
        "Written by `recsys tune`; what is not here has its default.",
        f"Mark: {aim.mark}, {aim.protocol}{prefix}, placement {aim.placement}, "
        f"on the last {aim.tail} of the log.",
    ]
    if tuned.gain is not None and tuned.marks and tuned.microseconds:
        lines.append(
            "Whole pipeline, for visitors that no trial saw: mark {:.4f} -> {:.4f}, ".format(
                *tuned.marks
            )
            + f"{_interval(tuned.gain)};"
        )
        lines.append("{:.0f} -> {:.0f} microseconds a list.".format(*tuned.microseconds))
    if tuned.partial:
        lines.append(
            "Interrupted: stages gained by themselves, as told; the whole was not compared."
        )
    elif not tuned.better:
        lines.append("Nothing better was found: these are the settings that tuning started from.")
    return lines


def _result(found: Found) -> str:
    """What the stage as a whole brought."""
    if found.gain is None or found.marks is None or found.microseconds is None:
        return found.stage
    marks = "{:.4f} -> {:.4f}".format(*found.marks)
    took = "{:.0f} -> {:.0f} microseconds".format(*found.microseconds)
    return f"{found.stage}: mark {marks}, {_interval(found.gain)}; {took}"


def _interval(gain: Estimate) -> str:
    return f"{gain.value or 0:+.4f} [{gain.low or 0:+.4f}, {gain.high or 0:+.4f}]"


def _reason(name: str, found: Found, tuned: Tuned) -> str:
    """What one setting was and what it brought."""
    was = f"was {found.before[name]}"
    for source in tuned.sources:
        if name == f"retrieval.{source.source}" and found.stage == "sources":
            return f"{was}; it brings {source.gain:+.4f} for {source.microseconds:.0f} microseconds"
    if name in found.brought:
        return f"{was}; back at that the mark loses {found.brought[name]:.4f}"
    return f"{was}; there was no time to weigh it by itself"


def _within(table: Place, found: Found) -> bool:
    return any(tuple(name.split("."))[:-1] == table for name in found.kept)


def _key(name: str) -> str:
    return name if re.fullmatch(r"[A-Za-z0-9_-]+", name) else orjson.dumps(name).decode()
