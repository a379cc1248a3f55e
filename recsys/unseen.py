"""Unseen items: those of a catalogue that a bundle does not know, by what the shop says of them.

A small index beside the bundle's: an item is in it from the moment it is named.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float32]

LATEST = 6  # items that make a taste
TINY = 1e-9


@dataclass(frozen=True)
class Unseen:
    """names: ids. vectors: float32 [names, d], unit vectors; zero where nothing is known."""

    names: Sequence[str] = ()
    vectors: Floats = field(default_factory=lambda: np.zeros((0, 0), dtype=np.float32))

    @cached_property
    def places(self) -> dict[str, int]:
        """The place of each name."""
        return {name: k for k, name in enumerate(self.names)}

    def nearest(self, taste: Floats, k: int) -> dict[str, float]:
        """Up to k names of the highest cosines above 0, with these, best first. taste: float32
        [d]."""
        if not k or not len(self.vectors):
            return {}
        scores = self.vectors @ taste
        places = np.argpartition(-scores, min(k, len(scores) - 1))[:k].tolist()
        # Ties by name: their order is another one elsewhere.
        places.sort(key=lambda at: (-scores[at], self.names[at]))
        return {self.names[at]: float(scores[at]) for at in places if scores[at] > 0}

    def taste(self, trail: Sequence[str]) -> Floats:
        """The unit vector of some items together, float32 [d]; zero where nothing is known."""
        total = self.vectors_of(trail[:LATEST]).sum(axis=0)
        found: Floats = total / max(float(np.linalg.norm(total)), TINY)
        return found

    def vectors_of(self, names: Sequence[str]) -> Floats:
        """The vectors of some names, float32 [n, d]; zero for those that are not in it."""
        places = np.array([self.places.get(name, -1) for name in names], dtype=np.intp)
        found = np.zeros((len(names), self.vectors.shape[1]), np.float32)
        found[places >= 0] = self.vectors[places[places >= 0]]
        return found
