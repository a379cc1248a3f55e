"""Items: what a shop says of what it sells, and how a change to it is read."""

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, fields
from typing import Any

import orjson

from recsys.config import nearest
from recsys.events import MAX_CATEGORIES, MAX_ID_LENGTH, MAX_LABEL, InputError

MAX_TITLE = 1000  # characters
MAX_URL = 2048  # characters
MAX_PROPERTIES = 64
MAX_PROPERTY_BYTES = 16 * 1024  # of all properties together, as JSON

Scalar = str | float | bool
Value = Scalar | tuple[Scalar, ...]
Change = Mapping[str, Any]  # valid fields that are given; None clears one


class FieldError(InputError):
    """A field cannot be used. field: its path; message: what is wrong with it and what would do."""

    def __init__(self, path: str, message: str) -> None:
        super().__init__(f"{path}: {message}")
        self.field, self.message = path, message


@dataclass(frozen=True, slots=True)
class Item:
    """What is known of an item; ``None`` or empty: nothing. An item that is not visible stands in
    no list."""

    title: str | None = None
    category: tuple[str, ...] = ()
    price: float | None = None
    in_stock: bool | None = None
    image_url: str | None = None
    visible: bool = True
    properties: dict[str, Value] = field(default_factory=dict)


FIELDS = tuple(f.name for f in fields(Item))


def change_of(data: object) -> Change:
    """A change to an item, from a JSON object of some of its fields. Raises FieldError."""
    if not isinstance(data, dict):
        raise FieldError("item", f"must be a JSON object, got {shown(data)}")
    change = {}
    for name, value in data.items():
        if name not in READERS:
            known = ", ".join(FIELDS)
            raise FieldError(
                shortened(name) or "item",
                f"unknown field{nearest(name, list(FIELDS))}; known: {known}",
            )
        change[name] = None if value is None else READERS[name](name, value)
    return change


def listed_change_of(data: object) -> tuple[str, Change]:
    """A change that names its item in the field ``item_id``. Raises FieldError."""
    if not isinstance(data, dict):
        raise FieldError("item", f"must be a JSON object, got {shown(data)}")
    if "item_id" not in data:
        raise FieldError("item_id", "is required")
    item_id = text("item_id", data["item_id"], MAX_ID_LENGTH)
    return item_id, change_of({k: v for k, v in data.items() if k != "item_id"})


def merged(old: Item | None, change: Change) -> Item:
    """The item after a change: fields not given stay, ``None`` clears one (RFC 7396).

    So do single properties: those not given stay, ``None`` takes one away, ``None`` for all of them
    takes all. Raises FieldError where there would be too many.
    """
    values = {name: getattr(old, name) for name in FIELDS} if old else {}
    values.update(change)
    given = change.get("properties")
    if given is not None:
        together = {**(old.properties if old else {}), **given}
        properties = {name: value for name, value in together.items() if value is not None}
        _check_size("properties", properties)
        values["properties"] = properties
    return Item(**{name: value for name, value in values.items() if value is not None})


def fields_of(item: Item) -> dict[str, Any]:
    """What is known of an item, as :func:`change_of` reads it; categories are always a list."""
    values = {name: _listed(getattr(item, name)) for name in FIELDS}
    values["properties"] = {name: _listed(value) for name, value in item.properties.items()}
    return {name: v for name, v in values.items() if name == "visible" or v not in (None, [], {})}


def encode(item: Item) -> bytes:
    """An item as compact JSON: the form held in Redis."""
    return orjson.dumps(fields_of(item))


def decode(payload: bytes) -> Item:
    """The inverse of :func:`encode`; what a later version adds is passed over."""
    stored = orjson.loads(payload)
    values = {name: stored[name] for name in FIELDS if name in stored}
    if "category" in values:
        values["category"] = tuple(values["category"])
    if "properties" in values:
        values["properties"] = {k: _unlisted(v) for k, v in values["properties"].items()}
    return Item(**values)


def encode_terms(item: Item) -> bytes:
    """Price and category as JSON, nothing where neither is known: what the log notes of an event's
    item."""
    terms = {"price": item.price, "category": item.category}
    known = {name: value for name, value in terms.items() if value not in (None, ())}
    return orjson.dumps(known) if known else b""


def text(path: str, value: object, longest: int) -> str:
    """A text of 1 to so many characters. Raises FieldError."""
    if not isinstance(value, str):
        raise FieldError(path, f"must be text, got {shown(value)}")
    if not 1 <= len(value) <= longest:
        raise FieldError(path, f"must have 1 to {longest} characters, got {len(value)}")
    try:
        value.encode()
    except UnicodeEncodeError:
        raise FieldError(path, "holds half a character (a lone surrogate)") from None
    return value


def number(path: str, value: object) -> float:
    """A finite number. Raises FieldError."""
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise FieldError(path, f"must be a number, got {shown(value)}")
    try:
        result = float(value)
    except OverflowError:
        result = math.inf
    if not math.isfinite(result):
        raise FieldError(path, "must be a finite number")
    return result


def truth(path: str, value: object) -> bool:
    """True or false. Raises FieldError."""
    if not isinstance(value, bool):
        raise FieldError(path, f"must be true or false, got {shown(value)}")
    return value


def shown(value: object) -> str:
    """A value in an error text."""
    return shortened(repr(value))


def shortened(value: object) -> str:
    whole = str(value)
    return whole if len(whole) <= 80 else whole[:80] + "…"


def _listed(value: Any) -> Any:
    return list(value) if isinstance(value, tuple) else value


def _unlisted(value: Any) -> Any:
    return tuple(value) if isinstance(value, list) else value


def _title(path: str, value: object) -> str:
    return text(path, value, MAX_TITLE)


def _category(path: str, value: object) -> tuple[str, ...]:
    if not isinstance(value, list):
        return (text(path, value, MAX_LABEL),)
    if len(value) > MAX_CATEGORIES:
        raise FieldError(path, f"must be at most {MAX_CATEGORIES} categories, got {len(value)}")
    labels = (text(f"{path}.{k}", label, MAX_LABEL) for k, label in enumerate(value))
    return tuple(dict.fromkeys(labels))


def _price(path: str, value: object) -> float:
    price = number(path, value)
    if price < 0:
        raise FieldError(path, f"must not be negative, got {shown(value)}")
    return price


def _image_url(path: str, value: object) -> str:
    return text(path, value, MAX_URL)


def _properties(path: str, value: object) -> dict[str, Value | None]:
    if not isinstance(value, dict):
        raise FieldError(path, f"must be a JSON object, got {shown(value)}")
    properties = {name: _property(path, name, inner) for name, inner in value.items()}
    _check_size(path, properties)
    return properties


def _property(path: str, name: object, value: object) -> Value | None:
    label = text(f"{path}.{shortened(name)}", name, MAX_LABEL)
    path = f"{path}.{shortened(label)}"
    if isinstance(value, list | tuple):
        return tuple(scalar(f"{path}.{k}", inner) for k, inner in enumerate(value))
    return None if value is None else scalar(path, value)


def scalar(path: str, value: object) -> Scalar:
    """A text, a finite number, true or false. Raises FieldError."""
    if isinstance(value, str):
        return text(path, value, MAX_PROPERTY_BYTES) if value else value
    if isinstance(value, bool):
        return value
    if isinstance(value, int | float):
        number(path, value)
        return value
    raise FieldError(
        path, f"must be text, a number, true or false, or a list of such, got {shown(value)}"
    )


def _check_size(path: str, properties: Mapping[str, Value | None]) -> None:
    if len(properties) > MAX_PROPERTIES:
        raise FieldError(path, f"must be at most {MAX_PROPERTIES}, got {len(properties)}")
    try:
        size = len(orjson.dumps(properties))
    except TypeError:  # a whole number of more than 64 bits
        raise FieldError(path, "whole numbers must fit into 64 bits") from None
    if size > MAX_PROPERTY_BYTES:
        raise FieldError(path, f"must be at most {MAX_PROPERTY_BYTES} bytes of JSON, got {size}")


READERS: dict[str, Callable[[str, object], Any]] = {
    "title": _title,
    "category": _category,
    "price": _price,
    "in_stock": truth,
    "image_url": _image_url,
    "visible": truth,
    "properties": _properties,
}
