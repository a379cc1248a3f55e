"""Refit: the active bundle brought up to a log that has grown, for a small part of a training.

What is counted (ids, histories, popularity, transitions, continuations, neighbours) is counted anew
over the whole log, which takes seconds. What is learned goes on from the active bundle's vectors,
see `recsys.training.fit_sources`. The ranker is taken over: its features mean what they meant. All
of that is one bundle, so a new item is known to every part of it or to none.

The log is the truth, as in a training: what it no longer holds, because old files were deleted, is
no longer in the bundle. So it is given whole, not only what is new.

A refit is there to know the newest events, so none can be held out of it to judge it by. It is
judged by its rehearsal: the same refit without the window, from the latest bundle of the same line
that has not seen the window either.
"""

import dataclasses
from dataclasses import replace
from typing import Any

import polars as pl
from rich.progress import Progress

from recsys import gate
from recsys.bundle import Bundle
from recsys.config import Config
from recsys.evaluation.split import Split, when
from recsys.events import InputError
from recsys.gate import Verdict
from recsys.logs import Log, log_from_frame
from recsys.registry import Registry
from recsys.training import Ranker, Stages, completed, fit_sources, simultaneous

REHEARSED = (
    "judged by a rehearsal, the same refit without the window: what is published knows the window, "
    "and was not measured itself"
)


class RefitError(InputError):
    """A bundle cannot be refitted on a log; the text says why and what to do."""


def refit(
    active: Bundle,
    log: Log | pl.DataFrame | Any,
    config: Config | None = None,
    progress: Progress | None = None,
    seconds: dict[str, float] | None = None,
    prefix: str = "",
) -> Bundle:
    """The active bundle brought up to the whole of a log; not published yet.

    log, seconds: as in `recsys.training.train`. config: what training would be told; None: what the
    active bundle was. prefix: of the names of the stages. The same bundle, log and configuration
    give the same version. Raises RefitError, LogError, NoInteractionsError, FloatingPointError.
    """
    config = config or active.config
    log = log if isinstance(log, Log) else log_from_frame(log, config=config.events)
    of_log = {"simultaneous": simultaneous(log), "timed": log.clock == "time"}
    config = config.settled(**of_log)
    # What a bundle of an earlier version was not told is as training decides it today.
    _check(active, log, _different(active.config.settled(**of_log), config))
    stages = Stages(progress, seconds)
    bundle = fit_sources(log, config, stages, prefix, start=active)
    facts = active.facts
    ranker = Ranker(facts.ranker, active.forest, active.net, facts.features, facts.openings)
    line = (*facts.line, active.version)
    return completed(bundle, log, ranker, stages, prefix, line)


def rehearse(registry: Registry, cut: Split, **options: Any) -> Bundle:
    """What `recsys.gate.judge_by` judges a refit by. options: as of :func:`refit`.

    Raises RefitError where all bundles of the active one's line have seen the window.
    """
    base = gate.unseen(registry, cut.test)
    if base is None:
        active = registry.load()
        raise RefitError(
            f"bundle {active.version} has seen the log up to "
            f"{when(active.facts.clock, active.cutoff)}, and the window to judge by begins at "
            f"{when(cut.test.clock, float(cut.test.frame['timestamp'][0]))}: wait until the log "
            "has grown by a window, give a shorter --window, or refit without --gate"
        )
    return refit(base, cut.train, prefix="rehearsal_", **options)


def of_refit(verdict: Verdict, bundle: Bundle) -> Verdict:
    """The verdict on a rehearsal as that on the refit."""
    notes = [REHEARSED, *(note for note in verdict.notes if note != gate.WITHOUT_WINDOW)]
    return dataclasses.replace(verdict, candidate=bundle.version, notes=notes)


def _check(active: Bundle, log: Log, different: list[str]) -> None:
    name = f"bundle {active.version}"
    if active.facts.clock != log.clock:
        raise RefitError(
            f"{name} is of a log whose clock is its {active.facts.clock}, this one's is its "
            f"{log.clock}: a refit needs the log that the bundle is of"
        )
    if different:
        raise RefitError(
            f"{name} was trained with other settings in {', '.join(different)}: only a full "
            "training, `recsys train` without --refit, takes new ones in"
        )
    first, last = float(log.frame["timestamp"][0]), float(log.frame["timestamp"][-1])
    if last <= active.cutoff:
        raise RefitError(
            f"nothing to refit: {name} has seen the log up to "
            f"{when(log.clock, active.cutoff)}, and this one ends at {when(log.clock, last)}"
        )
    if first > active.cutoff:
        raise RefitError(
            f"the log begins at {when(log.clock, first)}, after all that {name} has seen: give "
            "the whole log, as what it does not hold is not in the refit"
        )


def _different(ours: Config, theirs: Config) -> list[str]:
    """The tables of the settings that differ."""
    # The number of threads changes how long training takes, not what it gives.
    training = replace(theirs.training, threads=ours.training.threads)
    theirs = replace(theirs, training=training)
    names = [field.name for field in dataclasses.fields(Config)]
    return [f"[{name}]" for name in names if getattr(ours, name) != getattr(theirs, name)]
