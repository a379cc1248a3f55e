"""Catalog: the items of one worker in columns that filters read, kept up to date change by change.

Not for several threads at once.
"""

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from recsys.arrays import longer
from recsys.interactions import IdMap
from recsys.items import Item, Scalar

Mask = NDArray[np.bool_]
Slots = NDArray[np.intp]  # the type that numpy indexes with at once
Test = Callable[[NDArray[np.float64], NDArray[np.int32]], Mask]

PROPERTY = "properties."
MOST_COLUMNS = 64  # kept, those that filters named last
# Bundles in use at a time: the active one, and the one before while its last requests end.
BUNDLES = 2
NUMBERS = (int, float)  # true and false are of neither type
FEW = 8  # values that are looked for one by one


class Catalog:
    """Items by slots: places that never change, in the order in which items were first named.

    An item that was never named is visible, and nothing is known of it. One that was deleted is not
    visible until it is named again: what a shop no longer sells must not be shown.
    """

    def __init__(self) -> None:
        self._slot_of: dict[str, int] = {}
        self._items: list[Item | None] = []  # None: deleted
        self._ids: list[str] = []
        self._visible = np.ones(1024, dtype=np.bool_)
        self._hidden = 0
        self._holders: dict[str, int] = {}  # items that have each property
        self._columns: dict[str, Column] = {}
        self._aligned: list[tuple[IdMap, Slots]] = []
        # Changes are counted, and of which number the last of each kind was, so that what does not
        # depend on it stays valid.
        self.change = 0
        self._changed_at = np.zeros(1024, dtype=np.int64)  # by slots
        self.named_at = 0  # an item was named for the first time
        self.shown_at = 0  # one became visible or ceased to be

    def __len__(self) -> int:
        return sum(item is not None for item in self._items)

    @property
    def slots(self) -> int:
        return len(self._items)

    @property
    def hidden(self) -> int:
        """Items that are not visible, deleted ones among them."""
        return self._hidden

    def get(self, item_id: str) -> Item | None:
        """What is known of an item; ``None`` for one never named or deleted."""
        slot = self._slot_of.get(item_id)
        return None if slot is None else self._items[slot]

    def upsert(self, item_id: str, item: Item) -> None:
        """Put an item in the place of what was known of it."""
        self._put(item_id, item)

    def delete(self, item_id: str) -> None:
        """Forget what is known of an item and hide it until it is named again."""
        self._put(item_id, None)

    def visible(self) -> Mask:
        """Which slots may be shown, bool [slots + 1]; the last is any item that was never named."""
        return self._visible[: self.slots + 1]

    def column(self, field: str) -> "Column":
        """The column of ``category``, ``price``, ``in_stock``, ``title`` or ``properties.NAME``.

        Made when it is first asked for, then kept up to date.
        """
        column = self._columns.pop(field, None)
        if column is None or column.is_wasteful(self.slots):
            name = field.removeprefix(PROPERTY)
            if field.startswith(PROPERTY) and name not in self._holders:
                return Column([], 0)
            column = Column([_values(item, field) for item in self._items], self.change)
        self._columns[field] = column  # the one named last is at the end
        if len(self._columns) > MOST_COLUMNS:
            del self._columns[next(iter(self._columns))]
        return column

    def rows(self, items: IdMap) -> Slots:
        """The slot of each row of a bundle, intp [items]; -1 for items that were never named.

        Made once for a bundle, then kept up to date; not to be written to.
        """
        for known, slots in self._aligned:
            if known is items:
                return slots
        return self.align(items, items.rows(self._ids))

    def ids(self) -> list[str]:
        """The id of each slot."""
        return self._ids.copy()

    def align(self, items: IdMap, found: NDArray[np.int32]) -> Slots:
        """What :meth:`rows` gives from now on for a bundle that knows the first slots' ids in these
        rows; to look them up takes long, and may be done elsewhere.

        found: int32, of the first ids that :meth:`ids` gave, -1 for those it does not know.
        """
        found = np.concatenate([found, items.rows(self._ids[len(found) :])])
        slots = np.full(len(items), -1, dtype=np.intp)
        held = np.flatnonzero(found >= 0)
        slots[found[held]] = held
        self._aligned = [(items, slots), *self._aligned[: BUNDLES - 1]]
        return slots

    def slots_of(self, item_ids: Sequence[str]) -> Slots:
        """The slot of each item, -1 for those never named."""
        return np.array([self._slot_of.get(i, -1) for i in item_ids], dtype=np.intp)

    def named(self, item_ids: Sequence[str]) -> Mask:
        """The slots of these items, bool [slots + 1]."""
        mask = np.zeros(self.slots + 1, dtype=np.bool_)
        slots = self.slots_of(item_ids)
        mask[slots[slots >= 0]] = True
        return mask

    def unseen(self, items: IdMap, among: Mask, n: int) -> list[str]:
        """Up to n ids that a bundle does not know, those named last first.

        among: bool [slots + 1], only of these.
        """
        return self.ids_of(self._unseen(items, among)[:n])

    def unseen_slots(self, items: IdMap) -> Slots:
        """The slots of visible items that a bundle does not know, those named last first."""
        return self._unseen(items, self.visible())

    def ids_of(self, slots: Slots) -> list[str]:
        """The ids of slots."""
        return [self._ids[slot] for slot in slots.tolist()]

    def of_slots(self, slots: Slots) -> list[Item | None]:
        """What is known of slots; ``None`` of deleted ones."""
        return [self._items[slot] for slot in slots.tolist()]

    def changed_at(self, slots: Slots) -> NDArray[np.int64]:
        """The number of the last change of each slot, int64."""
        return self._changed_at[slots]

    def _unseen(self, items: IdMap, among: Mask) -> Slots:
        held = among[:-1].copy()
        slots = self.rows(items)
        held[slots[slots >= 0]] = False
        return np.flatnonzero(held)[::-1]

    def _put(self, item_id: str, item: Item | None) -> None:
        self.change += 1
        slot = self._slot_of.get(item_id)
        if slot is None:
            slot = self._name(item_id)
        self._changed_at[slot] = self.change
        visible = item is not None and item.visible
        if bool(self._visible[slot]) != visible:
            self._visible[slot] = visible
            self._hidden += -1 if visible else 1
            self.shown_at = self.change
        before, self._items[slot] = self._items[slot], item
        self._count_holders(before, -1)
        self._count_holders(item, 1)
        for field, column in self._columns.items():
            values = _values(item, field)
            if not _same(values, _values(before, field)):
                column.put(slot, values, self.change)

    def _count_holders(self, item: Item | None, by: int) -> None:
        for name in item.properties if item else ():
            holders = self._holders.get(name, 0) + by
            if holders:
                self._holders[name] = holders
            else:
                del self._holders[name]

    def _name(self, item_id: str) -> int:
        slot = self.slots
        self._slot_of[item_id] = slot
        self._items.append(None)
        self._ids.append(item_id)
        self.named_at = self.change
        # One more than there are items, see `visible`.
        self._visible = longer(self._visible, slot + 2, True)
        self._changed_at = longer(self._changed_at, slot + 1, 0)
        for items, slots in self._aligned:
            row = int(items.rows([item_id])[0])
            if row >= 0:
                slots[row] = slot
        return slot


class Column:
    """The values of one field by slots; an item may have several.

    Numbers are float64, NaN for none; texts, true and false are codes, int32, -1 for none. The
    first value of an item stands in its slot, others behind each other beside the slot they are of.
    """

    def __init__(self, values: Sequence[tuple[Scalar, ...]], changed_at: int) -> None:
        self.changed_at = changed_at
        self._code_of: dict[Scalar, int] = {}
        pairs = [self._coded(of[0]) if of else NOTHING for of in values]
        self._numbers = np.array([number for number, _ in pairs], dtype=np.float64)
        self._codes = np.array([code for _, code in pairs], dtype=np.int32)
        self._owners = np.zeros(0, dtype=np.intp)
        self._more_numbers = np.zeros(0, dtype=np.float64)
        self._more_codes = np.zeros(0, dtype=np.int32)
        self._places: dict[int, list[int]] = {}  # of a slot, where its other values are
        self._free: list[int] = []
        self._used = 0
        for slot, of in enumerate(values):
            if len(of) > 1:
                self._put_more(slot, of[1:])

    def put(self, slot: int, values: tuple[Scalar, ...], changed_at: int) -> None:
        """Other values for a slot, perhaps a new one."""
        self.changed_at = changed_at
        self._reach(slot)
        self._numbers[slot], self._codes[slot] = self._coded(values[0]) if values else NOTHING
        for place in self._places.pop(slot, ()):
            self._more_numbers[place], self._more_codes[place] = NOTHING
            self._free.append(place)
        if len(values) > 1:
            self._put_more(slot, values[1:])

    def among(self, values: Sequence[Scalar], slots: int) -> Mask:
        """Which slots have one of the values, bool [slots]."""
        numbers = np.array([v for v in values if _is_number(v)], dtype=np.float64)
        held = [self._code_of.get(v, -1) for v in values if not _is_number(v)]
        codes = np.array([code for code in held if code >= 0], dtype=np.int32)
        lookup = np.zeros(len(self._code_of) + 1, dtype=np.bool_)  # the last for -1: no code
        lookup[codes] = True

        def test(of_numbers: NDArray[np.float64], of_codes: NDArray[np.int32]) -> Mask:
            hits = _equal(of_numbers, numbers) if len(numbers) else np.zeros(len(of_codes), bool)
            if len(codes):
                hits |= _equal(of_codes, codes) if len(codes) <= FEW else lookup[of_codes]
            return hits

        return self._any(test, slots)

    def compared(self, compare: np.ufunc, bound: float, slots: int) -> Mask:
        """Which slots have a number on that side of a bound, bool [slots]."""
        return self._any(lambda numbers, _codes: compare(numbers, bound), slots)

    def is_wasteful(self, slots: int) -> bool:
        """Whether most of the texts that it remembers may be of no item any more."""
        return len(self._code_of) > 4 * (slots + self._used) + 10_000

    def _any(self, test: Test, slots: int) -> Mask:
        self._reach(slots - 1)
        hits = test(self._numbers[:slots], self._codes[:slots])
        if self._used:
            more = test(self._more_numbers[: self._used], self._more_codes[: self._used])
            hits[self._owners[np.flatnonzero(more)]] = True
        return hits

    def _coded(self, value: Scalar) -> tuple[float, int]:
        if _is_number(value):
            return float(value), -1
        return np.nan, self._code_of.setdefault(value, len(self._code_of))

    def _put_more(self, slot: int, values: tuple[Scalar, ...]) -> None:
        places = [self._place() for _ in values]
        for place, value in zip(places, values, strict=True):
            self._owners[place] = slot
            self._more_numbers[place], self._more_codes[place] = self._coded(value)
        self._places[slot] = places

    def _place(self) -> int:
        if self._free:
            return self._free.pop()
        self._owners = longer(self._owners, self._used + 1, 0)
        self._more_numbers = longer(self._more_numbers, self._used + 1, np.nan)
        self._more_codes = longer(self._more_codes, self._used + 1, -1)
        self._used += 1
        return self._used - 1

    def _reach(self, slot: int) -> None:
        self._numbers = longer(self._numbers, slot + 1, np.nan)
        self._codes = longer(self._codes, slot + 1, -1)


NOTHING = (np.nan, -1)  # neither a number nor a code


def _values(item: Item | None, field: str) -> tuple[Scalar, ...]:
    """All values that an item has in a field."""
    if item is None:
        return ()
    if field.startswith(PROPERTY):
        value: Any = item.properties.get(field.removeprefix(PROPERTY))
    else:
        value = getattr(item, field)
    if isinstance(value, tuple):
        return value
    return () if value is None else (value,)


def _same(one: tuple[Scalar, ...], other: tuple[Scalar, ...]) -> bool:
    """Whether values are the same; to Python 1 and true are."""
    return one == other and list(map(type, one)) == list(map(type, other))


def _is_number(value: Scalar) -> bool:
    return type(value) in NUMBERS


def _equal(of: NDArray[Any], values: NDArray[Any]) -> Mask:
    """Which are equal to one of the values."""
    if len(values) > FEW:
        values = np.sort(values)
        found: Mask = values[np.searchsorted(values[:-1], of)] == of
        return found
    hits: Mask = of == values[0]
    for value in values[1:]:
        hits |= of == value
    return hits
