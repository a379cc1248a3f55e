"""Filters: conditions on items as a request states them, and the rows that hold them."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field

import numpy as np
import orjson

from recsys.catalog import PROPERTY, Catalog, Mask
from recsys.config import nearest
from recsys.events import MAX_ID_LENGTH, MAX_LABEL
from recsys.interactions import IdMap
from recsys.items import (
    MAX_TITLE,
    FieldError,
    Scalar,
    number,
    scalar,
    shortened,
    shown,
    text,
    truth,
)

MAX_CONDITIONS = 100
MAX_VALUES = 10_000  # of one list
MAX_BOOSTS = 20
LEAST_FACTOR, MOST_FACTOR = 0.1, 10.0  # of a boost
REMEMBERED = 32 * 1024 * 1024  # bytes of masks

KNOWN = ("category", "price", "in_stock", "title", "item_id", "properties.NAME")
OPERATORS = ("eq", "ne", "lt", "le", "gt", "ge", "in", "nin")
LONGEST = {"category": MAX_LABEL, "title": MAX_TITLE, "item_id": MAX_ID_LENGTH}
COMPARE = {"lt": np.less, "le": np.less_equal, "gt": np.greater, "ge": np.greater_equal}


@dataclass(frozen=True, slots=True)
class Condition:
    """What a field must be: ``in`` or ``nin`` (not in) some values, or ``lt``, ``le``, ``gt``,
    ``ge`` than a number."""

    field: str
    operator: str
    values: tuple[Scalar, ...]


@dataclass(frozen=True, slots=True)
class Filter:
    """Conditions that all must hold. key: the same for the same conditions in any order.

    An item with several values holds ``in``, ``lt``… if one of them does, ``nin`` if none is among
    those given. Where nothing is known of a field only ``nin`` holds: it is not known to be that.
    """

    conditions: tuple[Condition, ...] = field(compare=False)
    key: bytes = b""


def filter_of(data: object, where: str = "filter") -> Filter:
    """A filter from a JSON object: fields, and what each must be.

    ``{"price": {"ge": 5, "lt": 50}, "category": ["shoes", "boots"], "properties.brand": "x"}``: a
    value stands for ``eq``, a list for ``in``. Raises FieldError, which names the path.
    """
    if not isinstance(data, dict):
        raise FieldError(where, f"must be a JSON object, got {shown(data)}")
    conditions = tuple(
        condition for name, wanted in data.items() for condition in _conditions(where, name, wanted)
    )
    if len(conditions) > MAX_CONDITIONS:
        raise FieldError(
            where, f"must be at most {MAX_CONDITIONS} conditions, got {len(conditions)}"
        )
    parts = sorted(orjson.dumps([c.field, c.operator, c.values]) for c in conditions)
    return Filter(conditions, b"".join(parts))


@dataclass(frozen=True, slots=True)
class Boost:
    """Items that hold a filter count for more, or for less: see `rules.boosted`."""

    filter: Filter
    factor: float


def boosts_of(data: object, where: str = "boost") -> tuple[Boost, ...]:
    """Boosts from a JSON list of objects, or from one: ``{"filter": {"in_stock": true}, "factor":
    2}``. Raises FieldError, which names the path."""
    if not isinstance(data, list):
        return (_boost(where, data),)
    if len(data) > MAX_BOOSTS:
        raise FieldError(where, f"must be at most {MAX_BOOSTS} boosts, got {len(data)}")
    return tuple(_boost(f"{where}.{k}", boost) for k, boost in enumerate(data))


class Masks:
    """Which rows of a bundle may be shown, remembered while nothing changes on which that depends.

    Not for several threads at once.
    """

    def __init__(self, catalog: Catalog) -> None:
        self.catalog = catalog
        self._kept: dict[bytes, tuple[IdMap, tuple[int, ...], Mask]] = {}

    def of(self, items: IdMap, wanted: Filter | None = None) -> Mask | None:
        """Rows that are visible and hold a filter, bool [items], not to be written to.

        ``None``: all do. items: of the bundle.
        """
        conditions = wanted.conditions if wanted else ()
        if not conditions and not self.catalog.hidden:
            return None
        key = wanted.key if wanted else b""
        stamp = self._stamp(conditions)
        kept = self._kept.pop(key, None)
        if kept is None or kept[0] is not items or kept[1] != stamp:
            mask = self._rows(items, conditions)
            mask.flags.writeable = False
            kept = items, stamp, mask
        self._kept[key] = kept  # the one asked for last is at the end
        if len(self._kept) * len(items) > REMEMBERED and len(self._kept) > 1:
            del self._kept[next(iter(self._kept))]
        return kept[2]

    def held(self, item_ids: Sequence[str], wanted: Filter | None) -> Mask:
        """Which of these items are visible and hold a filter, bool [item_ids]."""
        conditions = wanted.conditions if wanted else ()
        mask: Mask = self._slots(conditions)[self.catalog.slots_of(item_ids)]
        for condition in conditions:
            if condition.field == "item_id":
                among = np.array([i in condition.values for i in item_ids], dtype=np.bool_)
                mask &= among ^ (condition.operator == "nin")
        return mask

    def unseen(self, items: IdMap, wanted: Filter | None, n: int) -> list[str]:
        """Up to n ids of visible items that hold a filter and that a bundle does not know, those
        named last first."""
        conditions = wanted.conditions if wanted else ()
        among = self._slots(conditions)
        for condition in conditions:
            if condition.field == "item_id":
                named = self.catalog.named([str(value) for value in condition.values])
                among &= named ^ (condition.operator == "nin")
        return self.catalog.unseen(items, among, n)

    def _stamp(self, conditions: tuple[Condition, ...]) -> tuple[int, ...]:
        """When that on which conditions depend last changed."""
        catalog = self.catalog
        columns = (catalog.column(c.field).changed_at for c in conditions if c.field != "item_id")
        return (catalog.named_at, catalog.shown_at, *columns)

    def _rows(self, items: IdMap, conditions: tuple[Condition, ...]) -> Mask:
        mask: Mask = self._slots(conditions)[self.catalog.rows(items)]
        for condition in conditions:
            if condition.field == "item_id":
                rows = items.rows([str(value) for value in condition.values])
                named = np.zeros(len(items), dtype=np.bool_)
                named[rows[rows >= 0]] = True
                mask &= named ^ (condition.operator == "nin")
        return mask

    def _slots(self, conditions: tuple[Condition, ...]) -> Mask:
        """Which slots are visible and hold all conditions but those on ids, bool [slots + 1]."""
        held = self.catalog.visible().copy()
        for condition in conditions:
            if condition.field != "item_id":
                held &= self._holds(condition)
        return held

    def _holds(self, condition: Condition) -> Mask:
        column, slots = self.catalog.column(condition.field), self.catalog.slots + 1
        if condition.operator in COMPARE:
            return column.compared(COMPARE[condition.operator], float(condition.values[0]), slots)
        among = column.among(condition.values, slots)
        return ~among if condition.operator == "nin" else among


@dataclass(frozen=True, slots=True)
class Beyond:
    """What a request's filter and boosts say of items that its bundle does not know."""

    masks: Masks
    wanted: Filter | None = None
    boosts: Sequence[Boost] = ()

    def allowed(self, item_ids: Sequence[str]) -> Mask:
        """Which are visible and hold the filter, bool [item_ids]. Where there is a catalogue, only
        what it names: events may come with any id."""
        held = self.masks.held(item_ids, self.wanted)
        if self.masks.catalog.slots:
            held &= self.masks.catalog.slots_of(item_ids) >= 0
        return held

    def boosted(self, item_ids: Sequence[str]) -> list[Mask]:
        """Which hold each boost's filter, bool [item_ids] each."""
        return [self.masks.held(item_ids, boost.filter) for boost in self.boosts]


def _boost(where: str, data: object) -> Boost:
    if not isinstance(data, dict):
        raise FieldError(where, f"must be a JSON object, got {shown(data)}")
    names = ["filter", "factor"]
    for name in data:
        if name not in names:
            close = nearest(str(name)[:MAX_LABEL], names)
            raise FieldError(f"{where}.{shortened(name)}", f"unknown field{close}")
    for name in names:
        if name not in data:
            raise FieldError(f"{where}.{name}", "is required")
    wanted = filter_of(data["filter"], f"{where}.filter")
    if not wanted.conditions:
        raise FieldError(f"{where}.filter", "needs a condition: all items alike change nothing")
    factor = number(f"{where}.factor", data["factor"])
    if not LEAST_FACTOR <= factor <= MOST_FACTOR:
        raise FieldError(
            f"{where}.factor", f"must be from {LEAST_FACTOR} to {MOST_FACTOR}, got {factor}"
        )
    return Boost(wanted, factor)


def _conditions(where: str, name: object, wanted: object) -> Iterator[Condition]:
    path = f"{where}.{shortened(name)}"
    if not isinstance(name, str) or not _is_known(name):
        close = nearest(str(name)[:MAX_LABEL], list(KNOWN))
        raise FieldError(path, f"unknown field{close}; known: {', '.join(KNOWN)}")
    if isinstance(wanted, list):
        wanted = {"in": wanted}
    elif not isinstance(wanted, dict):
        wanted = {"eq": wanted}
    if not wanted:
        raise FieldError(path, f"needs a value or an operator: {', '.join(OPERATORS)}")
    for operator, operand in wanted.items():
        yield _condition(path, name, operator, operand)


def _is_known(name: str) -> bool:
    return name in KNOWN[:-1] or (name.startswith(PROPERTY) and name != PROPERTY)


def _condition(path: str, name: str, operator: object, operand: object) -> Condition:
    inner = f"{path}.{shortened(operator)}"
    if operator not in OPERATORS:
        close = nearest(str(operator)[:MAX_LABEL], list(OPERATORS))
        raise FieldError(inner, f"unknown operator{close}; known: {', '.join(OPERATORS)}")
    if operator in COMPARE:
        if name != "price" and not name.startswith(PROPERTY):
            raise FieldError(inner, f"{name} has no order: use eq, ne, in or nin")
        return Condition(name, str(operator), (number(inner, operand),))
    if operator in ("eq", "ne"):
        negated = operator == "ne"
        return Condition(name, "nin" if negated else "in", (_value(inner, name, operand),))
    if not isinstance(operand, list):
        raise FieldError(inner, f"must be a list, got {shown(operand)}")
    if len(operand) > MAX_VALUES:
        raise FieldError(inner, f"must be at most {MAX_VALUES} values, got {len(operand)}")
    values = tuple(_value(f"{inner}.{k}", name, value) for k, value in enumerate(operand))
    return Condition(name, str(operator), values)


def _value(path: str, name: str, value: object) -> Scalar:
    """A value that a field can have; numbers as floats, so that 50 and 50.0 are the same filter."""
    if name == "in_stock":
        return truth(path, value)
    if name == "price":
        return number(path, value)
    if name in LONGEST:
        return text(path, value, LONGEST[name])
    given = scalar(path, value)
    return given if isinstance(given, str | bool) else float(given)
