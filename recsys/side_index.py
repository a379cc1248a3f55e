"""Side index: the items of a catalogue that bundles do not know, kept up to date change by change.

Not for several threads at once.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np

from recsys.bundle import Bundle
from recsys.catalog import BUNDLES, Catalog, Slots
from recsys.items import Item
from recsys.models import attributes
from recsys.unseen import Floats, Unseen

MOST = 2_000  # items, those named last: a scan of their vectors takes a tenth of a millisecond


@dataclass
class _Kept:
    """Of one bundle: slots of the catalogue, and the number of its last change that is in it."""

    bundle: Bundle
    slots: Slots
    unseen: Unseen
    change: int


@dataclass
class SideIndex:
    """The unseen items of one catalogue, by their attributes, for the bundles in use."""

    catalog: Catalog
    _kept: list[_Kept] = field(default_factory=list)

    def of(self, bundle: Bundle) -> Unseen:
        """The items that the catalogue shows now and the bundle does not know, at most so many.

        Where the catalogue is empty, those that the bundle was trained with.
        """
        if not self.catalog.slots or not len(bundle.attribute_terms):
            return bundle.unseen
        kept = next((kept for kept in self._kept if kept.bundle is bundle), None)
        if kept is None:
            slots, items = self.asked(bundle)
            kept = self.put(bundle, slots, self.catalog.change, vectors_of(bundle, items))
        if kept.change < self.catalog.change:
            self._update(kept)
        return kept.unseen

    def asked(self, bundle: Bundle) -> tuple[Slots, list[Item | None]]:
        """The slots that :meth:`of` needs, those named last first, and what is known of them."""
        slots = self.catalog.unseen_slots(bundle.items)[:MOST]
        return slots, self.catalog.of_slots(slots)

    def put(self, bundle: Bundle, slots: Slots, change: int, vectors: Floats) -> _Kept:
        """What :meth:`of` goes on from: the vectors of slots as they were at a change."""
        kept = _Kept(bundle, slots, Unseen(self.catalog.ids_of(slots), vectors), change)
        self._kept = [kept, *(one for one in self._kept if one.bundle is not bundle)][:BUNDLES]
        return kept

    def _update(self, kept: _Kept) -> None:
        catalog, before = self.catalog, kept.change
        kept.change = catalog.change
        if max(catalog.named_at, catalog.shown_at) > before:
            slots = catalog.unseen_slots(kept.bundle.items)[:MOST]
            if not np.array_equal(slots, kept.slots):
                names = catalog.ids_of(slots)
                kept.unseen = Unseen(names, kept.unseen.vectors_of(names))
                new = np.isin(slots, kept.slots, invert=True)
                kept.slots = slots
                self._embed(kept, new | (catalog.changed_at(slots) > before))
                return
        self._embed(kept, catalog.changed_at(kept.slots) > before)

    def _embed(self, kept: _Kept, which: np.ndarray) -> None:
        places = np.flatnonzero(which)
        if len(places):
            items = self.catalog.of_slots(kept.slots[places])
            kept.unseen.vectors[places] = vectors_of(kept.bundle, items)


def vectors_of(bundle: Bundle, items: Sequence[Item | None]) -> Floats:
    """Unit vectors of items by what is known of them, float32 [items, d]."""
    told = [attributes.terms_of(item) if item else [] for item in items]
    return attributes.embedded(bundle.attribute_terms, bundle.attributes, told)
