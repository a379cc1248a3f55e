"""Sources: which of them earn their microseconds in the ranked list, found by leaving each out."""

from dataclasses import asdict, dataclass
from typing import Any

from recsys.config import Config
from recsys.tuning.space import Setting, Values
from recsys.tuning.stages import Clock, Found, Stage, proven
from recsys.tuning.trials import Trials, Worth

WHEN_ON = 40  # candidates with which a source that is off is tried
MOST = 1000  # candidates that the space of a source holds


@dataclass(frozen=True)
class Contribution:
    """What one source is worth: the list with it against the list without it.

    gain: of the mark, on the questions of the search. microseconds: a list. on: after tuning.
    """

    source: str
    gain: float
    microseconds: float
    on: bool

    def to_dict(self) -> dict[str, Any]:
        return asdict(self)


def counts_of(sources: list[str]) -> tuple[Setting, ...]:
    """The settings that turn sources on and off."""
    return tuple(Setting(f"retrieval.{source}", 0, MOST, whole=True) for source in sources)


def weigh(
    stage: Stage, config: Config, trials: Trials, clock: Clock, min_gain: float
) -> tuple[Found, list[Contribution]]:
    """Leave out each source that is on, try each that is off, and keep those that are worth it.

    stage: of :func:`counts_of`. min_gain: of the mark, that a source must bring; all that are
    turned off may together cost no more. What the time does not suffice for stays as it is.
    """
    start = trials.start

    def worth(values: Values) -> Worth:
        worth = trials.worth(values, stage.objective(config))
        clock.tick()
        return worth

    alone: dict[str, tuple[float, float]] = {}
    chosen, mark = start, 0.0
    with clock.budget.interruptible():
        base = worth(start)
        mark = base.mark
        for name in start:
            if clock.over:
                break
            other = worth({**start, name: 0 if start[name] else WHEN_ON})
            sign = 1 if start[name] else -1
            alone[name] = (
                sign * (base.mark - other.mark),
                sign * (base.microseconds - other.microseconds),
            )
        for name in sorted(alone, key=lambda name: alone[name][0]):
            if start[name] and alone[name][0] < min_gain and not clock.over:
                less = {**chosen, name: 0}
                if base.mark - worth(less).mark < min_gain:
                    chosen, mark = less, worth(less).mark
        for name in sorted(alone, key=lambda name: -alone[name][0]):
            if not start[name] and alone[name][0] >= min_gain and not clock.over:
                more = {**chosen, name: WHEN_ON}
                if worth(more).mark - mark >= min_gain:
                    chosen, mark = more, worth(more).mark
    clock.done()
    found = Found.of(stage.name, trials.start, chosen, len(trials.known), {})
    found = proven(found, stage, config, least=-min_gain) if found.values else found
    held = {**start, **found.kept}
    weighed = [
        Contribution(name.partition(".")[2], gain, took, on=held[name] > 0)
        for name, (gain, took) in alone.items()
    ]
    return found, weighed
