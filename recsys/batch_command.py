"""`recsys recommend`: lists for many users, in one Parquet file."""

import argparse
import contextlib
from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path
from time import perf_counter
from typing import Any

import orjson
from rich.console import Console
from rich.progress import Progress

from recsys.batch import Batch, Order, lists
from recsys.cores import cores
from recsys.events import InputError
from recsys.listfiles import written
from recsys.registry import Registry
from recsys.userfiles import all_users, once, users_of

ALL = "all"


def run(
    arguments: argparse.Namespace, items: Sequence[Path], progress: Progress, console: Console
) -> dict[str, Any]:
    """Make the lists and say what came of it; returns that as plain JSON values.

    items: files of what the shop says of its items. Raises InputError.
    """
    if arguments.threads < 0:
        raise InputError(f"--threads: must be 1 or more, or 0 for all cores: {arguments.threads}")
    for path in items if arguments.users == ALL else (*items, Path(arguments.users)):
        # Of one that is not there, or cannot be looked at, whoever reads or writes it says so.
        with contextlib.suppress(OSError):
            if path.samefile(arguments.out):
                raise InputError(f"--out: {path} is a file that this reads; name another one")
    start, threads = perf_counter(), arguments.threads or cores()
    order = _order(arguments, items)
    batch = order.batch()
    named, known = _named(batch, arguments.users), len(batch.bundle.users)
    ready = perf_counter()
    users, tiers = 0, Counter[str]()
    metadata = {
        "bundle": batch.bundle.version,
        "placement": order.placement,
        "source": order.source,
        "n": order.n,
    }
    with (
        written(arguments.out, {"recsys": orjson.dumps(metadata).decode()}) as file,
        progress as bars,
    ):
        task = bars.add_task("users", total=known if arguments.users == ALL else None)
        for count, found in lists(order, batch, named, threads):
            file.add(found)
            users += count
            first = found.filter(found["rank"] == 1)
            tiers.update(first["tier"].to_list())
            bars.update(task, completed=users)
        if not users:
            raise InputError(f"{arguments.users}: names no user; it needs one at least")
        bars.update(task, total=users)
    seconds = perf_counter() - ready
    summary = {
        **metadata,
        "out": str(arguments.out),
        "users": users,
        "rows": file.rows,
        "tiers": dict(tiers),
        "threads": threads,
        "seconds": {"load": round(ready - start, 3), "lists": round(seconds, 3)},
        "users_per_second": round(users / seconds, 1),
    }
    _tell(summary, console)
    return summary


def _order(arguments: argparse.Namespace, items: Sequence[Path]) -> Order:
    registry = Registry(arguments.data_dir / "bundles")
    return Order(
        registry.folder(arguments.bundle),
        n=arguments.n,
        placement=arguments.placement,
        source=arguments.source,
        items=tuple(items),
    )


def _named(batch: Batch, users: str) -> Iterator[str]:
    """The users to make lists for, each once."""
    known = batch.bundle.users
    if users != ALL:
        return once(users_of(Path(users)), known)
    if not len(known):
        raise InputError(
            f"--users all: bundle {batch.bundle.version} knows no user, as its log named none; "
            "map the column that does: recsys train LOG --columns user_id=NAME"
        )
    return all_users(known)


def _tell(summary: dict[str, Any], console: Console) -> None:
    console.print(
        f"{summary['out']}: {summary['users']:,} users, {summary['rows']:,} rows, by bundle "
        f"{summary['bundle']}, {summary['users_per_second']:,.0f} users a second",
        highlight=False,
        markup=False,
    )
    if strangers := summary["tiers"].get("popular", 0):
        console.print(
            f"[yellow]{strangers:,} of these users are not known to the bundle: they got popular "
            "items, tier popular[/]",
            highlight=False,
        )
