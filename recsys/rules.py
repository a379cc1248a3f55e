"""Rules: which items may not stand in a list, whatever their score."""

import numpy as np
from numpy.typing import NDArray

from recsys.bundle import Bundle
from recsys.config import Placement
from recsys.session import Session


def excluded(
    bundle: Bundle,
    session: Session,
    placement: Placement,
    user: int,
    named: tuple[str, ...],
) -> NDArray[np.int32]:
    """Item rows that are out: named in the request, rejected, bought, or out by the placement."""
    # What was refused in an earlier session is out unless this one came back to it.
    out = set(named) | session.current.rejected
    out.update(session.past.rejected.difference(session.current.types))
    out.update(item for item in session.current.types if taken_out(session, item, placement))
    always = placement.exclude_bought == "always"
    if always or (placement.exclude_bought == "auto" and bundle.facts.exclude_bought):
        held = (session.past.types, session.current.types)
        out.update(item for types in held for item in types if "purchase" in types[item])
        entries = bundle.history.of(user)
        bought = bundle.history.items[entries][bundle.history.bought[entries]]
    else:
        bought = np.zeros(0, dtype=np.int32)
    rows = bundle.items.rows(sorted(out))
    return np.unique(np.concatenate([rows[rows >= 0], bought]))


def taken_out(session: Session, item: str, placement: Placement) -> bool:
    """Whether a placement excludes an item for what happened to it in the current session."""
    types = session.current.types[item]
    return "any" in placement.exclude or not types.isdisjoint(placement.exclude)
