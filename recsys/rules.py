"""Rules: which items may not stand in a list, whatever their score."""

from collections.abc import Iterable

import numpy as np
from numpy.typing import NDArray

from recsys.bundle import Bundle
from recsys.config import Placement
from recsys.retrieval import NO_ROWS
from recsys.session import Session


def excluded(
    bundle: Bundle,
    session: Session,
    placement: Placement,
    user: int,
    named: tuple[str, ...],
) -> NDArray[np.int32]:
    """Rows that are out, ascending: named in the request, refused, bought, or by the placement."""
    # What was refused in an earlier session is out unless this one came back to it.
    out = {*named, *session.current.rejected}
    out.update(session.past.rejected.difference(session.current.types))
    out.update(_taken_out(session, placement))
    leaves_out_bought = placement.exclude_bought == "always" or (
        placement.exclude_bought == "auto" and bundle.facts.exclude_bought
    )
    if leaves_out_bought:
        held = (session.past.types, session.current.types)
        out.update(item for types in held for item in types if "purchase" in types[item])
    if not out and not (leaves_out_bought and user >= 0):
        return NO_ROWS
    # Plain sets: they are small, and numpy's would cost more than all the rest.
    rows = set(bundle.items.rows(list(out)).tolist()) if out else set()
    if leaves_out_bought and user >= 0:
        entries = bundle.history.of(user)
        rows.update(bundle.history.items[entries][bundle.history.bought[entries]].tolist())
    rows.discard(-1)
    return np.array(sorted(rows), dtype=np.int32)


def barred(
    bundle: Bundle, session: Session, placement: Placement, out: NDArray[np.int32]
) -> set[str]:
    """Ids that a list may not hold. out: what :func:`excluded` gave.

    Rows are silent on items that training has never seen; of these, what the placement takes out.
    """
    return {*bundle.items.ids(out), *_taken_out(session, placement)}


def _taken_out(session: Session, placement: Placement) -> Iterable[str]:
    """Items that a placement excludes for what happened to them in the current session."""
    if "any" in placement.exclude:
        return session.current.types
    exclude = placement.exclude
    return [item for item, types in session.current.types.items() if not types.isdisjoint(exclude)]
