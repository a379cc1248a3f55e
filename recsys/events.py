"""Events: what a visitor did, to which item, when. The vocabulary of logs, streams and sessions."""

import contextlib
import random
from collections.abc import Sequence
from typing import Any

import msgspec
import orjson

# Weight of one event as a sign of interest. The scale is relative to a view; negative types
# cancel what came before them for the same item; zero says nothing about taste.
EVENT_WEIGHTS: dict[str, float] = {
    "view": 1.0,
    "click": 1.0,
    "play": 1.0,
    "share": 2.0,
    "wishlist": 2.0,
    "cart": 3.0,
    "rating": 1.0,
    "purchase": 4.0,
    "impression": 0.0,
    "search": 0.0,
    "remove": -1.0,
    "dislike": -1.0,
}

# The only types that may come without an item.
ITEMLESS_TYPES = frozenset({"search"})

# Live types that count and are logged, but take no place in the capped session: a page full of
# impressions must not push the clicks out.
LOG_ONLY_TYPES = frozenset({"impression", "search"})

# What a purchase with a negative value (a return) becomes, in a log and in a live event alike.
RETURN_TYPE = "remove"

# Weights below this say nothing: they would vanish in single precision.
MIN_WEIGHT = 1e-6

# The column of the lake's files that tells them from other logs: when an event was accepted.
ACCEPTED = "accepted_ms"

# What an event notes of its item: optional columns of a log.
TERMS = ("category", "price")

MAX_ID_LENGTH = 256  # characters
MAX_LABEL = 256  # characters of a category or of a property's name
MAX_CATEGORIES = 100  # of an item
MAX_ABS_VALUE = 1e9
MAX_CLOCK_SKEW = 300.0  # seconds an event may lie in the future


class InputError(ValueError):
    """What was given cannot be used; the text names it and the remedy. The base of such errors."""


class Event(msgspec.Struct, frozen=True, omit_defaults=True):
    """One thing a visitor did. ``timestamp`` is Unix seconds.

    terms: what the catalogue said of the item when the event was accepted, ``price`` and
    ``category`` (a list), as far as it knew them. No client says them.
    """

    type: str
    session_id: str
    item_id: str | None = None
    user_id: str | None = None
    event_id: str | None = None
    timestamp: float = msgspec.field(default_factory=float)  # so it is never left out
    value: float | None = None
    recommendation_id: str | None = None
    position: int | None = None
    properties: dict[str, Any] = {}
    terms: dict[str, Any] = {}


def new_id() -> str:
    """An id that nothing has had, 32 hexadecimal digits, and no secret: of a generator that the
    system seeds, also after a fork, and that need not ask it each time."""
    return f"{random.getrandbits(128):032x}"


_encoder = msgspec.json.Encoder()
_decoder = msgspec.json.Decoder(list[Event])
_one = msgspec.json.Decoder(Event)


def encode(event: Event) -> bytes:
    """The event as compact JSON without empty fields: the form held in Redis."""
    return _encoder.encode(event)


def decode(payload: bytes) -> Event:
    """The inverse of :func:`encode`. Raises TypeError where a newer version wrote more fields."""
    return Event(**orjson.loads(payload))


def decode_known(payloads: Sequence[bytes]) -> list[Event]:
    """The same of several, as far as this version understands them: fields that newer ones add are
    left out, and so are events whose fields they made something else of; visitors get an answer."""
    try:
        return _decoder.decode(b"[" + b",".join(payloads) + b"]")
    except msgspec.ValidationError:
        found = []
        for payload in payloads:
            with contextlib.suppress(msgspec.ValidationError):
                found.append(_one.decode(payload))
        return found
