"""Stages: what is searched together, how, and what a search found."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from time import monotonic

from rich.progress import Progress

from recsys.config import Config
from recsys.metrics import Estimate, Floats
from recsys.tuning.questions import Exam
from recsys.tuning.space import Setting, Values, with_values
from recsys.tuning.trials import Objective, Trials, Worth

# A changed setting stays changed only if the mark is this much higher for it: what brings less is
# mostly luck with the questions, and a file of few settings is one that people read.
KEEP = 0.001
# Without a limit of trials a stage ends after so many in a row that found nothing better.
PATIENCE = 40
# Share of a stage's time after which it asks which of the changes it found are needed.
SEARCH_SHARE = 0.75


@dataclass(frozen=True)
class Stage:
    """Settings that are searched together.

    weight: its share of the time is this over those of all stages. ask: marks of an exam's
    questions under a configuration, and microseconds a question. first_look: values that make a
    cheaper trial.
    """

    name: str
    weight: float
    settings: tuple[Setting, ...]
    ask: Callable[[Config, Exam], tuple[Floats, float]]
    search: Exam
    proof: Exam
    first_look: Values = field(default_factory=dict)

    def objective(self, config: Config) -> Objective:
        """What values are worth in a configuration, by the questions of the search."""

        def objective(values: Values, look: bool) -> Worth:
            cheaper = self.first_look if look else {}
            marks, took = self.ask(with_values(config, {**values, **cheaper}), self.search)
            return Worth(float(marks.mean()), took)

        return objective


@dataclass(frozen=True)
class Found:
    """What a stage found.

    trials: how many it looked at. values: what is better than before, if anything. before: what
    these settings were. brought: what the mark loses, on the questions of the search, when one of
    them alone is put back; absent where the time was over. gain: of the mark, on questions that no
    trial saw; None where nothing better was found. marks, microseconds: before and after, of these.
    least: the gain that it takes; below zero where the aim is speed.
    """

    stage: str
    trials: int
    values: Values = field(default_factory=dict)
    before: Values = field(default_factory=dict)
    brought: dict[str, float] = field(default_factory=dict)
    gain: Estimate | None = None
    marks: tuple[float, float] | None = None
    microseconds: tuple[float, float] | None = None
    least: float = KEEP

    @classmethod
    def of(
        cls, stage: str, start: Values, best: Values, trials: int, brought: dict[str, float]
    ) -> "Found":
        """The difference between two sets of values."""
        changed = [name for name in best if best[name] != start[name]]
        return cls(
            stage=stage,
            trials=trials,
            values={name: best[name] for name in changed},
            before={name: start[name] for name in changed},
            brought=brought,
        )

    @property
    def kept(self) -> Values:
        """The values, if they held on questions that no trial saw too."""
        value = None if self.gain is None else self.gain.value
        return {} if value is None or value < self.least else self.values


class Budget:
    """How long to go on. trials: of each stage; minutes: of all; an interrupt ends it too."""

    def __init__(self, minutes: float | None, trials: int | None) -> None:
        self.trials = trials
        self.interrupted = False
        self._end = None if minutes is None else monotonic() + 60 * minutes
        self._reserved = 0.0

    def reserve(self, seconds: float) -> None:
        """Keep time for what follows the stages."""
        self._reserved = seconds

    @property
    def left(self) -> float | None:
        """Seconds that are not reserved; None: no limit."""
        if self._end is None:
            return None
        return max(0.0, self._end - self._reserved - monotonic())

    def share(self, weight: float, of: float) -> float | None:
        """Seconds of a stage whose weight is one of those still to come; None: no limit."""
        return None if self.left is None else self.left * weight / of

    @contextmanager
    def interruptible(self) -> Iterator[None]:
        """An interrupt ends what is done here, and every search after it."""
        try:
            yield
        except KeyboardInterrupt:
            self.interrupted = True


def search(stage: Stage, config: Config, trials: Trials, clock: "Clock") -> Found:
    """Look for better values of a stage's settings than those of ``config``."""
    objective = stage.objective(config)
    with clock.budget.interruptible():
        while not _searched(trials, clock):
            trials.step(objective, first_look=bool(stage.first_look))
            clock.tick()
    best = trials.start
    brought: dict[str, float] = {}
    if trials.known and trials.worth(trials.best, objective).mark >= (
        trials.worth(trials.start, objective).mark + KEEP
    ):
        best, brought = _needed(trials, objective, clock)
    clock.done()
    found = Found.of(stage.name, trials.start, best, trials.searched, brought)
    return proven(found, stage, config) if found.values else found


def proven(found: Found, stage: Stage, config: Config, least: float = KEEP) -> Found:
    """What was found with its gain on questions that no trial saw."""
    before, slow = stage.ask(with_values(config, found.before), stage.proof)
    after, fast = stage.ask(with_values(config, found.values), stage.proof)
    return replace(
        found,
        gain=stage.proof.compare(before, after, config.training.seed),
        marks=(float(before.mean()), float(after.mean())),
        microseconds=(slow, fast),
        least=least,
    )


def _searched(trials: Trials, clock: "Clock") -> bool:
    limit = clock.budget.trials
    enough = trials.since_best >= PATIENCE if limit is None else trials.searched >= limit
    return enough or clock.used >= SEARCH_SHARE


def _needed(
    trials: Trials, objective: Objective, clock: "Clock"
) -> tuple[Values, dict[str, float]]:
    """The best values without the changes that are not needed, and what each of them brings."""
    best = trials.best
    mark = trials.worth(best, objective).mark
    brought: dict[str, float] = {}
    with clock.budget.interruptible():
        for name in [n for n in best if best[n] != trials.start[n]]:
            if clock.over:
                break
            without = {**best, name: trials.start[name]}
            loss = mark - trials.worth(without, objective).mark
            if loss < KEEP:
                best, mark = without, mark - loss
            else:
                brought[name] = loss
            clock.tick()
    return best, brought


class Clock:
    """How much of its time a stage has used, and a bar that shows it.

    seconds: what the stage may take; None: as long as it needs. steps: how many it will take then.
    """

    def __init__(
        self,
        name: str,
        budget: Budget,
        seconds: float | None,
        steps: int,
        progress: Progress | None,
    ) -> None:
        self.budget = budget
        self._start, self._seconds = monotonic(), seconds
        self._total = steps if seconds is None else max(1, round(seconds))
        self._progress = progress
        self._task = progress.add_task(name, total=self._total) if progress else None

    @property
    def used(self) -> float:
        """Share of the stage's time that is over, 1 after an interrupt."""
        if self.budget.interrupted:
            return 1.0
        if self._seconds is None:
            return 0.0
        return (monotonic() - self._start) / self._seconds if self._seconds else 1.0

    @property
    def over(self) -> bool:
        return self.used >= 1

    def tick(self) -> None:
        """Show that one more step is done."""
        if self._progress and self._task is not None:
            if self._seconds is None:
                self._progress.advance(self._task)
            else:
                done = round(self.used * self._seconds)
                self._progress.update(self._task, completed=min(done, self._total))

    def done(self) -> None:
        """Show that the stage has ended."""
        if self._progress and self._task is not None:
            self._progress.update(self._task, completed=self._total)
