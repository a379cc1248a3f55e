"""Drift: visitors move away from what a bundle has learnt, and its live hits fall."""

import math
from collections import deque
from dataclasses import dataclass, field

WINDOW = 1_000  # scored events that are compared with those before them
STEP = 50  # scored events between two marks
# A fall counts that is worth a refit, and is no chance, however often one looks.
LEAST, ERRORS = 0.05, 4.0
# How much more hits scatter than independent ones would: those of a session hang together (1.9 on
# RSC15), and so do those of an hour (3.0, in blocks of 500 of its events).
SCATTER = 3.0

Mark = tuple[int, int]  # scored events, hits


@dataclass
class Drift:
    """What is watched of one bundle after another.

    marks: the first is where watching began, the next one is WINDOW back from the last or a little
    more.
    """

    version: str = ""
    marks: deque[Mark] = field(default_factory=deque)

    def look(self, version: str, scored: int, hits: int) -> str | None:
        """In words, how far the newest events' hits lie below those before; None where they do not.

        version: of the active bundle. scored, hits: of it so far. Whoever is told once is told
        again only of a fall below what came since.
        """
        if version != self.version or (self.marks and scored < self.marks[-1][0]):
            self.version, self.marks = version, deque()
        if not self.marks:
            self.marks.append((scored, hits))
        if scored - self.marks[-1][0] < STEP:
            return None
        self.marks.append((scored, hits))
        while len(self.marks) > 2 and scored - self.marks[2][0] >= WINDOW:
            del self.marks[1]
        first, start = self.marks[0], self.marks[1]
        before, newest = _between(first, start), _between(start, (scored, hits))
        if min(before[0], newest[0]) < WINDOW or not fallen(before, newest):
            return None
        self.marks = deque([(scored, hits)])
        rates = [part[1] / part[0] for part in (newest, before)]
        return (
            f"live hits have fallen to {rates[0]:.3f} of {newest[0]:,} events "
            f"from {rates[1]:.3f} of {before[0]:,}"
        )


def fallen(before: Mark, newest: Mark) -> bool:
    """Whether a hit rate is lower than before: by a share of it, and by more than chance (z-test of
    two proportions, for hits that hang together)."""
    rate, now = before[1] / before[0], newest[1] / newest[0]
    pooled = (before[1] + newest[1]) / (before[0] + newest[0])
    error = math.sqrt(SCATTER * pooled * (1 - pooled) * (1 / before[0] + 1 / newest[0]))
    return rate - now > max(LEAST * rate, ERRORS * error)


def _between(start: Mark, end: Mark) -> Mark:
    return end[0] - start[0], end[1] - start[1]
