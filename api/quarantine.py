"""`recsys quarantine`: sessions whose traffic is suspicious, and their release."""

import asyncio
import contextlib
import os
from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path

import orjson
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from api.settings import from_environment
from recsys.embedded import EmbeddedRedis, running_at
from recsys.events import InputError
from recsys.store import Store, StoreUnavailable, Suspect, redacted

console = Console(stderr=True)


def quarantine(
    data_dir: Path,
    action: str,
    sessions: Sequence[str],
    redis_url: str | None = None,
    *,
    as_json: bool = False,
) -> int:
    """List sessions in quarantine or release some; returns the exit status.

    redis_url: default the embedded server of the data directory. Raises InputError, StoreUrlError,
    EmbeddedError, RuntimeError where Redis does not answer.
    """
    if (action == "release") != bool(sessions):
        raise InputError(f"quarantine {action}: release names sessions, list names none")
    with contextlib.ExitStack() as stack:
        folder = Path(data_dir) / "redis"
        url = redis_url or running_at(folder)
        if not url:
            url = stack.enter_context(EmbeddedRedis.start(folder)).url
        store = Store(url, from_environment(os.environ).store)
        try:
            suspects, released = asyncio.run(_acted(store, sessions))
        except StoreUnavailable as error:
            raise RuntimeError(f"{redacted(url)}: {error}") from error
    if sessions:
        console.print(f"released: {escape(', '.join(released)) or 'none'}", highlight=False)
    else:
        console.print(_table(suspects) if suspects else "no session is in quarantine")
    if as_json:
        found = {"released": released} if sessions else {"quarantined": suspects}
        print(orjson.dumps(found).decode(), flush=True)
    unknown = [session for session in sessions if session not in released]
    if unknown:
        raise InputError(
            f"not in quarantine: {', '.join(unknown)}; recsys quarantine list names those that are"
        )
    return 0


async def _acted(store: Store, sessions: Sequence[str]) -> tuple[list[Suspect], list[str]]:
    try:
        if not sessions:
            return await store.quarantined(), []
        return [], [session for session in sessions if await store.release(session)]
    finally:
        await store.close()


def _table(suspects: Sequence[Suspect]) -> Table:
    table = Table("session", "since (UTC)", "velocity", "repetition", "reason")
    for suspect in suspects:
        since = datetime.fromtimestamp(suspect.since, UTC).strftime("%Y-%m-%d %H:%M:%S")
        scores = (f"{suspect.velocity:.1f}", str(suspect.repetition), suspect.reason)
        table.add_row(escape(suspect.session_id), since, *scores)
    return table
