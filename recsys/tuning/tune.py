"""Tune: the log's tail is cut off, the rest is trained on, and settings are chosen by the tail.

each source alone ──► the blend ──► which sources the ranker asks ──► their numbers, the ranker
"""

from dataclasses import asdict, dataclass, field
from hashlib import blake2b
from math import ceil
from time import monotonic
from typing import Any

import orjson
from optuna.storages import JournalStorage
from rich.progress import Progress

from recsys import training
from recsys.config import Config
from recsys.evaluation.evaluate import check_moments, check_question
from recsys.evaluation.split import EvaluationError, Split, split
from recsys.interactions import fold
from recsys.logs import Log
from recsys.metrics import Estimate
from recsys.tuning.fits import Fits
from recsys.tuning.plan import RANKER, WEIGH, Plan
from recsys.tuning.questions import DEPTH, FIGURES, exams
from recsys.tuning.ranked import Ranked
from recsys.tuning.sources import Contribution, weigh
from recsys.tuning.space import values_of, with_values
from recsys.tuning.stages import PATIENCE, Budget, Clock, Found, Stage, search
from recsys.tuning.trials import Trials

# What a source must bring to the mark (which is of the order of 0.4) to be asked at all: less than
# a thousandth is below what visitors notice, and each source costs tens of microseconds.
MIN_GAIN = 0.001


@dataclass(frozen=True)
class Aim:
    """What to tune for, as `recsys evaluate` asks. tail: what is held out at the log's end."""

    protocol: str = "next-item"
    placement: str = "default"
    min_prefix: int = 1
    tail: str = "10%"

    @property
    def mark(self) -> str:
        """What a mark is, in words."""
        return f"mean of {' and '.join(f'{name}@{DEPTH}' for name in FIGURES[self.protocol])}"


@dataclass
class Tuned:
    """What tuning came to, filled as it comes.

    start: the configuration it began with. config: the best that is known; the start where nothing
    was better. sources: what each brings to the ranked list. gain: of the whole pipeline's mark
    over the start's, on questions that no trial saw; None where the two were not compared.
    marks, microseconds: of the start's and of the tuned pipeline's lists.
    """

    start: Config
    config: Config
    aim: Aim
    simultaneous: bool = False
    found: list[Found] = field(default_factory=list)
    sources: list[Contribution] = field(default_factory=list)
    gain: Estimate | None = None
    marks: tuple[float, float] | None = None
    microseconds: tuple[float, float] | None = None
    partial: bool = False
    notes: list[str] = field(default_factory=list)

    @property
    def better(self) -> bool:
        """Whether something other than the start was found."""
        return self.config != self.start

    def to_dict(self) -> dict[str, Any]:
        """The findings as plain JSON values."""
        return {
            "better": self.better,
            "mark": self.aim.mark,
            "gain": self.gain and self.gain.to_dict(),
            "marks": self.marks,
            "microseconds": self.microseconds,
            "stages": [{**asdict(f), "kept": bool(f.kept)} for f in self.found],
            "sources": [asdict(source) for source in self.sources],
            "partial": self.partial,
            "notes": self.notes,
        }


def tune(
    log: Log,
    config: Config,
    storage: JournalStorage,
    *,
    aim: Aim | None = None,
    minutes: float | None = None,
    trials: int | None = None,
    min_gain: float = MIN_GAIN,
    progress: Progress | None = None,
) -> Tuned:
    """Find a configuration that serves the tail of a log better than ``config``.

    storage: where trials are kept and looked up: of this log, configuration and aim only. minutes:
    what all may take; trials: what each search may try; without either each goes on until nothing
    better is found. min_gain: what a source must bring to the mark to be asked. An interrupt
    (Ctrl-C) ends early with what is known. Raises EvaluationError where there is too little to tune
    on, UnknownPlacementError.
    """
    aim = aim or Aim()
    check_budget(minutes, trials)
    check_question(config, aim.protocol, aim.min_prefix, (DEPTH,), aim.placement)
    budget = Budget(minutes, trials)
    parts = _cut(log, aim, config)
    began = monotonic()
    start = training.train(parts.train, config, progress)
    config = start.config  # settled: nothing in it is "auto" any more
    search_exam, proof = exams(start, parts.test, aim.protocol, aim.placement, aim.min_prefix)
    before, slow = proof.of_lists(start)
    once = 1.2 * (monotonic() - began)  # what it takes to train a pipeline and to ask it
    plan = Plan(Fits(start, fold(parts.train.frame, config.events)), (search_exam, proof))
    tuned = Tuned(config, config, aim, training.simultaneous(parts.train), notes=list(parts.notes))
    course = _Course(tuned, plan, storage, budget, once, progress)
    budget.reserve(2 * once if course.ranks else once)
    if budget.left == 0.0:
        least = ceil((monotonic() - began + 3 * once) / 60)
        raise EvaluationError(
            f"--minutes {minutes:g}: training and asking took {once:.0f} s, so no time was left to "
            f"try anything; give {least} or more"
        )
    course.alone()
    course.blend()
    budget.reserve(once)
    if course.ranks and (budget.left is None or budget.left > once):
        course.ranker(parts.train, min_gain)
    tuned.notes += course.missed()
    if budget.interrupted:
        tuned.partial = True
    elif tuned.better:
        with budget.interruptible():
            whole = training.train(parts.train, tuned.config, progress)
            after, fast = proof.of_lists(whole)
            tuned.gain = proof.compare(before, after, config.training.seed)
            tuned.marks = float(before.mean()), float(after.mean())
            tuned.microseconds = slow, fast
        tuned.partial = budget.interrupted
    if tuned.gain is not None and (tuned.gain.value or 0.0) <= 0:
        tuned.notes.append("as a whole the findings were not better: the start stays")
        tuned.config = config
    return tuned


class _Course:
    """The stages one after another, each with its share of the time that is left.

    once: seconds of training and asking a pipeline. ranks: there is a ranker to tune, and time.
    """

    def __init__(
        self,
        tuned: Tuned,
        plan: Plan,
        storage: JournalStorage,
        budget: Budget,
        once: float,
        progress: Progress | None,
    ) -> None:
        self.tuned, self.plan, self.storage = tuned, plan, storage
        self.budget, self.progress = budget, progress
        self._sources, self._blend = plan.alone(), plan.blend()
        self._planned = [stage.name for stage in self._sources]
        self._planned += ["blend"] * bool(self._blend) + ["sources", "ranker"] * plan.ranked
        self._weights = sum(stage.weight for stage in self._sources)
        self._weights += self._blend.weight if self._blend else 0
        # Its sources are fitted anew first, which takes most of a training.
        self.ranks = plan.ranked and (budget.left is None or budget.left > 3 * once)
        self._weights += WEIGH + RANKER if self.ranks else 0

    def alone(self) -> None:
        """Each source by itself, so none depends on what was found of another."""
        for stage in self._sources:
            self._search(stage, self.tuned.start, "alone")

    def blend(self) -> None:
        """The blend of the sources as they are now."""
        if self._blend:
            config = self.tuned.config
            tables = tuple(getattr(config, name) for name in self.plan.blended)
            self._search(self._blend, config, digest(tables))

    def ranker(self, head: Log, min_gain: float) -> None:
        """The sources that the ranker asks, then how many candidates of each, and the ranker."""
        if self.budget.interrupted:
            return
        with self.budget.interruptible():
            ranked = Ranked(head, self.tuned.config, self.progress)
            stage, config = self.plan.weigh(ranked), self.tuned.config
            clock = self._clock(stage, 2 * len(stage.settings))
            if stage.settings:
                trials = self._trials(stage, config, digest(config))
                found, self.tuned.sources = weigh(stage, config, trials, clock, min_gain)
                self._take_in(found)
            config = self.tuned.config
            self._search(self.plan.ranker(ranked, config), config, digest(config))

    def missed(self) -> list[str]:
        """A note on the stages that nothing was tried in."""
        tried = {found.stage for found in self.tuned.found if found.trials}
        missed = [name for name in self._planned if name not in tried]
        if not missed:
            return []
        return [
            f"there was no time to tune {', '.join(missed)}: the same command with more --minutes "
            "goes on with them"
        ]

    def _search(self, stage: Stage, config: Config, version: str) -> None:
        trials = self._trials(stage, config, version)
        clock = self._clock(stage, self.budget.trials or PATIENCE)
        # Its proof may be interrupted too; what was found before it is not lost.
        with self.budget.interruptible():
            self._take_in(search(stage, config, trials, clock))

    def _take_in(self, found: Found) -> None:
        self.tuned.found.append(found)
        self.tuned.config = with_values(self.tuned.config, found.kept)

    def _trials(self, stage: Stage, config: Config, version: str) -> Trials:
        start, seed = values_of(config, stage.settings), config.training.seed
        return Trials(self.storage, f"{stage.name}-{version}", stage.settings, start, seed)

    def _clock(self, stage: Stage, steps: int) -> Clock:
        seconds = self.budget.share(stage.weight, self._weights)
        self._weights -= stage.weight
        return Clock(stage.name, self.budget, seconds, steps, self.progress)


def check_budget(minutes: float | None, trials: int | None) -> None:
    """Refuse what nothing can be tried in. Raises EvaluationError."""
    if minutes is not None and not minutes > 0:
        raise EvaluationError(f"--minutes: must be above 0, got {minutes:g}")
    if trials is not None and trials < 1:
        raise EvaluationError(f"--trials: must be at least 1, got {trials}")


def digest(*things: Any) -> str:
    """A short name for values: configurations, their tables, texts, bytes."""
    plain = orjson.dumps(things, default=repr, option=orjson.OPT_SORT_KEYS)
    return blake2b(plain, digest_size=6).hexdigest()


def _cut(log: Log, aim: Aim, config: Config) -> Split:
    try:
        parts = split(log, aim.tail)
    except EvaluationError as error:
        raise EvaluationError(f"the log is too short to tune on: {error}") from error
    try:
        check_moments(parts.test, config, aim.protocol, aim.min_prefix)
    except EvaluationError as error:
        raise EvaluationError(
            f"there is nothing to tune on in the last {aim.tail} of the log: {error}"
        ) from error
    return parts
