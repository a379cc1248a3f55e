"""Questions: moments of a log's tail at which a list is asked for, and how good the answers are.

Some are for the search; the others, of other visitors, prove what it found, so that a gain is never
measured on what it was chosen by.
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import chain
from time import perf_counter_ns

import numpy as np
from numpy.typing import NDArray

from recsys import retrieval, rules
from recsys.bundle import Bundle
from recsys.evaluation.evaluate import moments
from recsys.evaluation.replay import PROTOCOLS, Moment, Sample, openings
from recsys.evaluation.split import EvaluationError, check_point_in_time
from recsys.logs import Log
from recsys.metrics import METRICS, Estimate, Floats, bootstrap_means, difference
from recsys.recommend import Request, placement_of, recommend

# Questions that trials are judged by: the standard error of a hit rate is below 0.008, of a
# difference between two trials a third of that, and a source answers them in less than a second.
SEARCH = 4000
# Questions of other visitors that only what was found is judged by.
PROOF = 6000
DEPTH = 20

# The mean of two: the one says whether the right item is among the candidates at all, the other
# whether it stands in front; a ranker needs the first of a source and learns from the second.
FIGURES = {
    "next-item": ("hr", "mrr"),
    "rest-of-session": ("recall", "ndcg"),
    "user": ("recall", "ndcg"),
}

Rows = NDArray[np.int32]


@dataclass(frozen=True, slots=True)
class Question:
    """A moment, the rows looked for and those that the list may not hold.

    wanted: how many items are looked for, known to the bundle or not. visitor: the user or session.
    opening: asked before a known user's first event in the session.
    """

    moment: Moment
    targets: Rows
    wanted: int
    out: Rows
    visitor: str
    opening: bool


@dataclass(frozen=True)
class Exam:
    """Questions, and how answers to them are marked.

    marks are float64, one a question, 0 to 1: the mean of the two figures of the protocol.
    """

    questions: tuple[Question, ...]
    figures: tuple[str, str]
    placement: str

    def __len__(self) -> int:
        return len(self.questions)

    def only(self, which: Callable[[Question], bool]) -> "Exam":
        """The questions that a test holds for."""
        return replace(self, questions=tuple(q for q in self.questions if which(q)))

    def __add__(self, other: "Exam") -> "Exam":
        """Both one after the other."""
        return replace(self, questions=self.questions + other.questions)

    def of_source(self, bundle: Bundle, source: str) -> tuple[Floats, float]:
        """Marks of what a source proposes in its own order, and its microseconds (the median)."""
        propose = retrieval.SOURCES[source]
        lists, elapsed = [], []
        for question in self.questions:
            who = retrieval.profile(bundle, question.moment.session(bundle.config))
            start = perf_counter_ns()
            found, _ = propose(bundle, who, DEPTH + len(question.out))
            elapsed.append(perf_counter_ns() - start)
            lists.append(found[~np.isin(found, question.out)] if len(question.out) else found)
        return self._marks(lists), float(np.median(elapsed)) / 1000

    def of_lists(self, bundle: Bundle) -> tuple[Floats, float]:
        """Marks of the lists that are served, and microseconds a list (the median)."""
        row_of = {item: row for row, item in enumerate(bundle.items.ids(range(len(bundle.items))))}
        request = Request(n=DEPTH, placement=self.placement)
        lists, elapsed = [], []
        for question in self.questions:
            session = question.moment.session(bundle.config)
            start = perf_counter_ns()
            answer = recommend(bundle, session, request)
            elapsed.append(perf_counter_ns() - start)
            lists.append(np.array([row_of[item] for item in answer.item_ids], dtype=np.int32))
        return self._marks(lists), float(np.median(elapsed)) / 1000

    def compare(self, before: Floats, after: Floats, seed: int) -> Estimate:
        """What the mean mark gained, with its paired 95 % interval; a visitor counts as one."""
        clusters = np.unique([q.visitor for q in self.questions], return_inverse=True)[1]
        draws = bootstrap_means(np.stack([before, after], axis=1), clusters, seed=seed)
        return difference(before, after, draws)

    def _marks(self, lists: Sequence[Rows]) -> Floats:
        hits = np.zeros((len(lists), DEPTH), dtype=bool)
        for n, (found, question) in enumerate(zip(lists, self.questions, strict=True)):
            shown = found[:DEPTH]
            hits[n, : len(shown)] = np.isin(shown, question.targets)
        wanted = np.array([question.wanted for question in self.questions])
        first, second = (METRICS[name](hits, wanted, DEPTH) for name in self.figures)
        marks: Floats = (first + second) / 2
        return marks


def exams(
    bundle: Bundle, tail: Log, protocol: str, placement: str, min_prefix: int
) -> tuple[Exam, Exam]:
    """Questions drawn from the tail, for the search and for the proof; no visitor is in both.

    bundle: fitted on what precedes the tail. Raises EvaluationError where it knows later events, or
    where the tail has no question.
    """
    check_point_in_time(bundle, tail)
    config = bundle.config
    rng = np.random.default_rng(config.training.seed)
    found = moments(tail, config, protocol, min_prefix, None)
    most = len(tail.frame)
    if protocol == "user":
        most = tail.frame["user_id"].n_unique()
    elif min_prefix == 1:
        found = chain(found, openings(tail.frame, config))
    chance, share = (SEARCH + PROOF) / most, SEARCH / (SEARCH + PROOF)
    searched: dict[str, bool] = {}
    drawn: tuple[list[Question], list[Question]] = ([], [])
    for sample in found:
        visitor = sample.moment.user_id or sample.moment.event.session_id
        order = len(searched)
        part = searched.setdefault(visitor, int((order + 1) * share) > int(order * share))
        if rng.random() < chance:
            drawn[not part].extend(_asked(bundle, sample, protocol, placement, visitor))
    if not (drawn[0] and drawn[1]):
        raise EvaluationError(
            f"there is nothing to tune on: the tail has {sum(map(len, drawn))} moments with an "
            f"item for {protocol!r} to look for, and needs those of three visitors at least; "
            "give a longer log"
        )
    search, proof = (Exam(tuple(part), FIGURES[protocol], placement) for part in drawn)
    return search, proof


def _asked(
    bundle: Bundle, sample: Sample, protocol: str, placement: str, visitor: str
) -> Iterator[Question]:
    """The question of a sample, if there is something to look for and to answer from."""
    rules_of = placement_of(bundle.config, placement)
    session = sample.moment.session(bundle.config)
    who = retrieval.profile(bundle, session)
    out = rules.excluded(bundle, session, rules_of, who.user, ())
    targets = PROTOCOLS[protocol](sample, rules.barred(bundle, session, rules_of, out))
    opening = sample.prefix == 0
    if targets and not (opening and not len(who.past[0])):
        rows = bundle.items.rows(sorted(targets))
        yield Question(sample.moment, rows[rows >= 0], len(targets), out, visitor, opening)


def with_past(exam: Exam, bundle: Bundle) -> Exam:
    """The questions of visitors of whom more is known than the session."""

    def known(question: Question) -> bool:
        who = retrieval.profile(bundle, question.moment.session(bundle.config))
        return len(who.past[0]) > 0

    return exam.only(known)
