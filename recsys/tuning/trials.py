"""Trials: what was tried of some settings and what it was worth, kept on disk as it is found.

The search is optuna's TPE. Its state is the finished trials and nothing else: each proposal draws
from a generator seeded by their number. So a search that was stopped goes on as if it had not been.
"""

from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import optuna
from optuna.pruners import MedianPruner
from optuna.samplers import TPESampler
from optuna.storages import JournalStorage
from optuna.storages.journal import JournalFileBackend
from optuna.trial import FrozenTrial, TrialState, create_trial

from recsys.tuning.space import Setting, Values

# Every other trial keeps the best fit so far: its use is searched at the price of a few answers.
TRIALS_PER_FIT = 2
RANDOM_TRIALS = 10  # before TPE has enough to learn from
LOOKS = 4  # whole trials whose first look is known, before a bad first look ends a trial


class Worth(NamedTuple):
    """mark: the mean over the questions, 0 to 1. microseconds: a question, as measured."""

    mark: float
    microseconds: float


# What values are worth; with True only a first, cheaper look at them.
Objective = Callable[[Values, bool], Worth]


def open_journal(path: Path) -> JournalStorage:
    """The file that trials are kept in; a last line that was never finished is dropped."""
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    path.parent.mkdir(parents=True, exist_ok=True)
    if path.exists():
        lines, end, rest = path.read_bytes().rpartition(b"\n")
        if rest:
            path.write_bytes(lines + end)
    return JournalStorage(JournalFileBackend(str(path)))


class Trials:
    """The trials of one stage, stored under a name that says all that they depend on."""

    def __init__(
        self,
        storage: JournalStorage,
        name: str,
        settings: tuple[Setting, ...],
        start: Values,
        seed: int,
    ) -> None:
        self.settings = settings
        self.start = start
        self.seed = seed
        self.distributions = {s.name: s.distribution(start[s.name]) for s in settings}
        self.known: dict[tuple[float, ...], Worth] = {}
        self.searched = 0
        # The search runs in memory; on disk are only trials that ended, one write for each.
        self.stored = optuna.create_study(
            storage=storage, study_name=name, direction="maximize", load_if_exists=True
        )
        self.study = optuna.create_study(
            direction="maximize", pruner=MedianPruner(n_startup_trials=LOOKS)
        )
        for trial in self.stored.get_trials(deepcopy=False):
            self._take_in(trial)

    @property
    def best(self) -> Values:
        """The best values tried so far, the earliest of equals."""
        key = max(self.known, key=lambda key: self.known[key].mark)
        return {s.name: v for s, v in zip(self.settings, key, strict=True)}

    @property
    def since_best(self) -> int:
        """Trials of the search after its best one."""
        marks = [t.value or 0.0 for t in self.study.get_trials(states=[TrialState.COMPLETE])]
        return len(marks) - 1 - marks.index(max(marks)) if marks else 0

    def worth(self, values: Values, objective: Objective) -> Worth:
        """What given values are worth, looked up where they were tried before."""
        if self._key(values) not in self.known:
            self._keep(values, objective(values, False))
        return self.known[self._key(values)]

    def step(self, objective: Objective, first_look: bool = False) -> None:
        """Try what the sampler proposes, before all the start.

        first_look: ask for a cheaper value first, and go on only if it is no worse than the median.
        """
        if not self.searched:
            self._keep(self.start, self.worth(self.start, objective), searched=True)
            return
        trial, values = self._propose()
        worth = self.known.get(self._key(values))
        looks: dict[int, float] = {}
        if worth is None and first_look:
            looks[0] = objective(values, True).mark
            trial.report(looks[0], 0)
        if worth is None and not (looks and trial.should_prune()):
            worth = objective(values, False)
        self.study.tell(trial, state=TrialState.FAIL)  # its rounded values are what was tried
        self._keep(values, worth, looks, searched=True)

    def _propose(self) -> tuple[optuna.Trial, Values]:
        self.study.sampler = TPESampler(
            seed=self.seed + self.searched, multivariate=True, n_startup_trials=RANDOM_TRIALS
        )
        fitted = [setting.name for setting in self.settings if setting.fit]
        if 0 < len(fitted) < len(self.settings) and self.searched % TRIALS_PER_FIT:
            best = self.best
            self.study.enqueue_trial({name: best[name] for name in fitted})
        trial = self.study.ask(self.distributions)
        params = trial.params
        return trial, {s.name: s.rounded(params[s.name], self.start[s.name]) for s in self.settings}

    def _keep(
        self,
        values: Values,
        worth: Worth | None,
        looks: dict[int, float] | None = None,
        searched: bool = False,
    ) -> None:
        """Store a trial; without a worth it was ended after its first look."""
        trial = create_trial(
            state=TrialState.PRUNED if worth is None else TrialState.COMPLETE,
            value=worth and worth.mark,
            params=values,
            distributions=self.distributions,
            intermediate_values=looks,
            user_attrs={"searched": searched, "microseconds": worth and worth.microseconds},
        )
        self.stored.add_trial(trial)
        self._take_in(trial)

    def _take_in(self, trial: FrozenTrial) -> None:
        if trial.value is not None:
            worth = Worth(trial.value, trial.user_attrs["microseconds"])
            self.known.setdefault(self._key(trial.params), worth)
        if trial.user_attrs["searched"]:
            self.study.add_trial(trial)
            self.searched += 1

    def _key(self, values: Values) -> tuple[float, ...]:
        return tuple(values[setting.name] for setting in self.settings)
