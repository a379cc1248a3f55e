"""Shelf: the store's catalogue in the memory of a process, as it was at its last look.

Not for several threads at once.
"""

import asyncio
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from recsys.bundle import Bundle
from recsys.catalog import Catalog, Mask
from recsys.filters import Beyond, Boost, Filter, Masks
from recsys.interactions import IdMap
from recsys.items import decode
from recsys.side_index import SideIndex, vectors_of
from recsys.store import ItemChanges, Store, place_of
from recsys.unseen import Unseen

FOLLOWED = 100  # changes taken at a time: a few milliseconds of work
NOWHERE = "0-0"  # the place in a stream that holds nothing yet
COLUMNS = ("category", "price", "in_stock")  # made at once, others when a filter names them


@dataclass
class Shelf:
    """What the store knew of items at a place in the stream of their changes.

    known: by id, what is known of an item as JSON, see `items.encode`.
    """

    catalog: Catalog
    masks: Masks
    side: SideIndex
    known: dict[str, bytes]
    place: str

    def apply(self, changes: ItemChanges) -> bool:
        """Take over what changed; False where there may be more, see :meth:`catch_up`."""
        if not changes:
            return self.place == NOWHERE
        here = place_of(self.place)
        if place_of(changes[0][0]) > here:
            return False  # the place where this one stands is gone
        for place, fields in changes[1:]:
            if place_of(place) > here:
                self._put(fields[1].decode(), fields[3])
                self.place = place.decode()
        return len(changes) <= FOLLOWED

    async def catch_up(self, store: Store) -> bool:
        """Take over all that changed so far; False where all must be read anew: the store has lost
        its data, or this one fell too far behind.

        Raises StoreUnavailable.
        """
        while True:
            before = self.place
            if self.apply(await store.follow_items(before, FOLLOWED)):
                return True
            if self.place == before:
                return False

    async def align(self, bundle: Bundle) -> None:
        """Be ready for a bundle's first request; a thread does what takes long."""
        found = await asyncio.to_thread(bundle.items.rows, self.catalog.ids())
        self.catalog.align(bundle.items, found)
        if len(bundle.attribute_terms):
            change = self.catalog.change
            slots, items = self.side.asked(bundle)
            vectors = await asyncio.to_thread(vectors_of, bundle, items)
            self.side.put(bundle, slots, change, vectors)

    def unseen(self, bundle: Bundle) -> Unseen:
        """For a `Request`: what a bundle does not know, by what the shop says of it."""
        return self.side.of(bundle)

    def allowed(self, items: IdMap, wanted: Filter | None) -> Mask | None:
        """For a `Request`: the rows of a bundle that are visible and hold a filter."""
        return self.masks.of(items, wanted)

    def beyond(self, wanted: Filter | None = None, boosts: Sequence[Boost] = ()) -> Beyond:
        """For a `Request`: the same two of items that its bundle does not know."""
        return Beyond(self.masks, wanted, boosts)

    def boosts(self, items: IdMap, boosts: Sequence[Boost]) -> tuple[tuple[Mask, float], ...]:
        """For a `Request`: the rows of a bundle that hold each boost's filter, and its factor."""
        masks = ((self.masks.of(items, boost.filter), boost.factor) for boost in boosts)
        return tuple((mask, factor) for mask, factor in masks if mask is not None)

    def _put(self, item_id: str, payload: bytes) -> None:
        if payload:
            self.known[item_id] = payload
            self.catalog.upsert(item_id, decode(payload))
        else:
            self.known.pop(item_id, None)
            self.catalog.delete(item_id)


async def shelved(store: Store) -> Shelf:
    """What the store knows of items. Raises StoreUnavailable."""
    place, pairs = "", list[tuple[bytes, bytes]]()
    async for now, found in store.all_items():
        place = place or now  # what changes while this reads on is in the stream behind it
        pairs += found
    return await asyncio.to_thread(_filled, pairs, place)


def _filled(pairs: Iterable[tuple[bytes, bytes]], place: str) -> Shelf:
    catalog = Catalog()
    shelf = Shelf(catalog, Masks(catalog), SideIndex(catalog), {}, place)
    for item_id, payload in pairs:
        shelf._put(item_id.decode(), payload)
    for field in COLUMNS:
        catalog.column(field)
    return shelf
