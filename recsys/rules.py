"""Rules: which items may not stand in a list, whatever their score, and which count for more."""

from collections.abc import Iterable, Sequence

import numpy as np
from numpy.typing import NDArray

from recsys.bundle import Bundle
from recsys.config import Placement
from recsys.retrieval import NO_ROWS, Mask
from recsys.session import Session


def excluded(
    bundle: Bundle,
    session: Session,
    placement: Placement,
    user: int,
    named: tuple[str, ...],
) -> NDArray[np.int32]:
    """Rows that are out, ascending: named in the request, refused, bought, or by the placement."""
    out = excluded_ids(bundle, session, placement, named)
    past = bundle.history.of(user)
    barred = out_of_history(bundle, placement, past) if user >= 0 else None
    if not out and barred is None:
        return NO_ROWS
    # Plain sets: they are small, and numpy's would cost more than all the rest.
    rows = set(bundle.items.rows(list(out)).tolist()) if out else set()
    if barred is not None:
        rows.update(bundle.history.items[past][barred].tolist())
    rows.discard(-1)
    return np.array(sorted(rows), dtype=np.int32)


def out_of_history(
    bundle: Bundle, placement: Placement, entries: slice | NDArray[np.int64]
) -> Mask | None:
    """Which entries of the bundle's history are of items that their user's list may not hold, bool
    [entries]; ``None`` where none is."""
    bought: Mask = bundle.history.bought[entries]
    if placement.exclude_seen:
        return np.ones(len(bought), dtype=np.bool_)
    return bought if _leaves_out_bought(bundle, placement) else None


def excluded_ids(
    bundle: Bundle, session: Session, placement: Placement, named: tuple[str, ...]
) -> set[str]:
    """Ids that are out for what the request or live events say of them, known to the bundle or not;
    what the bundle knows of a user's history comes on top in :func:`excluded`."""
    # What was refused in an earlier session is out unless this one came back to it.
    out = {*named, *session.current.rejected}
    out.update(session.past.rejected.difference(session.current.types))
    out.update(_taken_out(session, placement))
    if _leaves_out_bought(bundle, placement):
        held = (session.past.types, session.current.types)
        out.update(item for types in held for item in types if "purchase" in types[item])
    return out


def barred(
    bundle: Bundle, session: Session, placement: Placement, out: NDArray[np.int32]
) -> set[str]:
    """Ids that a list may not hold. out: what :func:`excluded` gave, which is silent on items that
    training has never seen."""
    return {*bundle.items.ids(out), *excluded_ids(bundle, session, placement, ())}


def showable(allowed: Mask | None, out: NDArray[np.int32]) -> Mask | None:
    """Allowed rows without those that are out; ``None`` where all are allowed."""
    if allowed is None or allowed.all():
        return None
    left = allowed.copy()
    left[out] = False
    return left


def boosted(
    scores: NDArray[np.floating], masks: Sequence[Mask], factors: Sequence[float]
) -> NDArray[np.float64]:
    """How much boosts add to scores: log(factor) standard deviations of these for each that holds.

    A factor so multiplies exp(score / deviation), which is positive whatever the scores are. It
    means the same for every ranking and visitor, as their scale does not matter; 1 changes nothing,
    2 lifts by 0.7 deviations, 0.5 takes as much away, and several multiply. Items of the same
    boosts keep their order.

    scores: [n]. masks: bool [n] each. Returns float64 [n].
    """
    scale = float(scores.std(dtype=np.float64)) if len(scores) else 0.0
    added = np.zeros(len(scores), dtype=np.float64)
    for mask, factor in zip(masks, factors, strict=True):
        added[mask] += np.log(factor) * scale
    return added


def _leaves_out_bought(bundle: Bundle, placement: Placement) -> bool:
    return placement.exclude_bought == "always" or (
        placement.exclude_bought == "auto" and bundle.facts.exclude_bought
    )


def _taken_out(session: Session, placement: Placement) -> Iterable[str]:
    """Items that a placement excludes for what happened to them live."""
    current, exclude = session.current.types, placement.exclude
    if "any" in exclude:
        touched = list(current)
    else:
        touched = [item for item, types in current.items() if not types.isdisjoint(exclude)]
    return [*touched, *session.past.types] if placement.exclude_seen else touched
