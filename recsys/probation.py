"""Probation: is a bundle worse in live traffic than the one it replaced? Looked at all the time.

Both are asked for a list at the same moments, just before events of the same visitors. Of each
visitor one event counts, the first whose item stands in one of the two lists only: what one visitor
does hangs together, what several do does not. Of a bundle that is not worse, each such visitor is
the former's with a probability of at most a half, whoever came before. Then

    E = mean over p, uniform from 1/2 to 1, of (2 p)^former (2 (1 - p))^own

is expected to stay at 1 or fall: each of these likelihood ratios is. That it ever reaches 1 / ALARM
has a probability of at most ALARM, however often one looks (Ville's inequality, 1939; mixtures:
Robbins, "Statistical Methods Related to the Law of the Iterated Logarithm", 1970; Howard et al.,
"Time-uniform, nonparametric, nonasymptotic confidence sequences", 2021).

Visitors see the lists of the new bundle, and click rather on what they see: that speaks for it, so
there are fewer rollbacks than there should be, not more.
"""

from dataclasses import dataclass

import numpy as np
from scipy.special import betainc, betaln

AT = 20  # items of a list
PLACEMENT = "default"

ALARM = 0.001  # how likely a bundle that is as good is rolled back, over the whole probation
SURE = 0.01  # how likely the probation of one that is as good ends early, as if it were better

# The probation ends when so many events were scored, which tells a loss of a few hundredths of the
# hits, or after so many seconds, where so many do not come.
ENOUGH = 20_000
LONGEST = 7 * 24 * 3600.0

WORSE, KEPT = "worse", "kept"


@dataclass(frozen=True, slots=True)
class Counts:
    """What a probation has found so far, in all workers.

    scored: events, and of these own_hits and former_hits in the list of each. own_only and
    former_only: visitors. ended: WORSE or KEPT, empty while it goes on.
    """

    scored: int = 0
    own_hits: int = 0
    former_hits: int = 0
    own_only: int = 0
    former_only: int = 0
    ended: str = ""


def evidence(against: int, for_: int) -> float:
    """The natural logarithm of E: how much visitors speak against a bundle, and for it."""
    visitors = against + for_
    # The mean is 2 * 2^visitors * the integral of p^against (1 - p)^for_ from 1/2 to 1.
    upper = betainc(for_ + 1, against + 1, 0.5)
    with np.errstate(divide="ignore"):  # as good as 0 where nearly all speak for it
        mean = (visitors + 1) * np.log(2.0) + betaln(against + 1, for_ + 1) + np.log(upper)
    return float(mean)


def outcome(counts: Counts, age: float) -> str | None:
    """WORSE, KEPT, or None while it goes on. age: seconds since the bundle became active."""
    if counts.ended:
        return counts.ended
    if evidence(counts.former_only, counts.own_only) >= -np.log(ALARM):
        return WORSE
    better = evidence(counts.own_only, counts.former_only) >= -np.log(SURE)
    return KEPT if better or counts.scored >= ENOUGH or age >= LONGEST else None


def words(counts: Counts) -> str:
    """The figures as a sentence."""
    shares = [hits / max(1, counts.scored) for hits in (counts.own_hits, counts.former_hits)]
    return (
        f"live hit rate@{AT} {shares[0]:.4f} against {shares[1]:.4f} of the bundle before it in "
        f"{counts.scored:,} events; an item in one of the two lists only was in its own for "
        f"{counts.own_only:,} visitors, in the other for {counts.former_only:,}"
    )
