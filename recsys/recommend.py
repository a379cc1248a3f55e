"""The one prediction function: the API, the evaluation and the demo all call it."""

from dataclasses import dataclass, field

MAX_N = 1000


@dataclass(frozen=True, slots=True)
class Request:
    """What is asked for. ``item_id``: the item on the page, an anchor that is never returned."""

    n: int = 20
    placement: str = "default"
    item_id: str | None = None
    exclude: tuple[str, ...] = ()
    explain: bool = False


@dataclass(frozen=True, slots=True)
class Recommendation:
    """The answer: external ids, best first.

    scores: descending. reasons: the feature that carried each item. tier: how the answer was made:
    ``session``, ``batch`` or ``popular``. timings: microseconds per stage.
    features: with ``explain``, each item's weighted feature values.
    """

    item_ids: list[str]
    scores: list[float]
    reasons: list[str]
    tier: str
    bundle: str
    timings: dict[str, float] = field(default_factory=dict)
    features: list[dict[str, float]] = field(default_factory=list)
