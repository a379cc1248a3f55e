"""Plan: which stages a log gives reason for, and whom each of them asks."""

from collections.abc import Callable
from dataclasses import replace

from recsys import blend, ranking, retrieval
from recsys.config import Config
from recsys.metrics import Floats
from recsys.models import forest
from recsys.recommend import placement_of
from recsys.retrieval import SOURCES
from recsys.tuning import space
from recsys.tuning.fits import Fits
from recsys.tuning.questions import Exam, Question, with_past
from recsys.tuning.ranked import Ranked
from recsys.tuning.sources import counts_of
from recsys.tuning.space import Setting, Values, candidates_of, value_of
from recsys.tuning.stages import Stage

# Questions without which a kind of visitor is too rare to tune for.
FEWEST = 50

# Sources that know a visitor only by what was done before the session.
OF_THE_PAST = ("item_knn_past", "own")

# Tables that features of the ranker, and live aggregates, go by, be they sources or not.
TOLD_OF = ("transitions",)

# Weights in the time: of each source, by the name of the table that is fitted; the session
# embedding's fits are the dear ones. And of the other stages.
WEIGHTS = {
    "transitions": 1.0,
    "session_knn": 2.0,
    "session_embedding": 4.0,
    "item_knn": 1.0,
    "embedding": 2.0,
}
BLEND, WEIGH, RANKER = 1.0, 3.0, 3.0

# One epoch tells a bad session embedding from a good one.
FIRST_LOOK: dict[str, Values] = {"session_embedding": {"session_embedding.epochs": 1}}

Asks = Callable[[Config, Exam], tuple[Floats, float]]
Exams = tuple[Exam, Exam]  # for the search, for the proof


class Plan:
    """What there is to tune for one head and tail.

    everyone: asked in a session (live) or before it (openings). past: those of both of whom more is
    known than the session. by_ranker, by_blend: who answers. only: the source that the placement
    asks and no other, if it is so.
    """

    def __init__(self, fits: Fits, exams: Exams) -> None:
        self.fits, self.everyone = fits, exams
        self.placement = placement_of(fits.start.config, exams[0].placement)
        self.only = self.placement.ranking if self.placement.ranking in SOURCES else None
        self.live = _each(exams, lambda exam: exam.only(lambda q: not q.opening))
        self.past = _each(exams, lambda exam: with_past(exam, fits.start))
        self.openings = _each(exams, lambda exam: exam.only(lambda q: q.opening))
        self.by_ranker = _each(exams, lambda exam: exam.only(self._ranked))
        self.by_blend = _each(exams, lambda exam: exam.only(lambda q: not self._ranked(q)))

    @property
    def ranked(self) -> bool:
        """Whether there is a ranker to tune."""
        return _enough(self.by_ranker)

    @property
    def blended(self) -> tuple[str, ...]:
        """The tables of the configuration that what the blend gives depends on."""
        return ("embedding", "item_knn", *self._in_order)

    def alone(self) -> list[Stage]:
        """A stage for each source that has a say, each asked alone."""
        stages = []
        for table, weight in WEIGHTS.items():
            if source := self._asked(table):
                asks = self._by_source(source, table)
                settings = space.in_force(self._settings(table), self.fits.start.config)
                look = FIRST_LOOK.get(table, {})
                visitors = self._visitors(source)
                stages.append(Stage(table, weight, settings, asks, *visitors, look))
        return stages

    def blend(self) -> Stage | None:
        """The blend's weights, where it ranks."""
        fewest = FEWEST if self.ranked else 1
        if self.only or min(map(len, self.by_blend)) < fewest:
            return None
        settings = space.BLEND
        if not self.ranked:
            settings += space.in_force(space.BLEND_SESSION, self.fits.start.config)
        if self._in_order:
            settings += space.BLEND_IN_ORDER
        if _enough(self.openings):
            settings += space.BLEND_PAST
        return Stage("blend", BLEND, settings, self._by_blend, *self.by_blend)

    def weigh(self, ranked: Ranked) -> Stage:
        """Which sources the ranker asks; those that a placement names are not in question."""
        placements = self.fits.start.config.placements.values()
        named = {source for placement in placements for source in placement.sources}
        settings = counts_of([s for s in self._for_ranker() if s not in named])
        return Stage("sources", WEIGH, settings, self._by_ranker(ranked), *self.by_ranker)

    def ranker(self, ranked: Ranked, config: Config) -> Stage:
        """The numbers of candidates of the sources that are on, and what the ranker learns from and
        how."""
        on = [s for s in self._for_ranker() if value_of(config, f"retrieval.{s}")]
        settings = (*map(candidates_of, on), *space.CONTINUATIONS, *space.RANKER)
        return Stage("ranker", RANKER, settings, self._by_ranker(ranked), *self.by_ranker)

    def _ranked(self, question: Question) -> bool:
        """Whether the ranker answers a question."""
        if self.placement.ranking != "auto":
            return False
        start = self.fits.start
        who = retrieval.profile(start, question.moment.session(start.config))
        return ranking.uses_ranker(start, who)

    def _settings(self, table: str) -> tuple[Setting, ...]:
        if table == "embedding":
            settings = space.EMBEDDING[self.fits.start.config.embedding.model]
            return settings + space.EMBEDDING_PAST if _enough(self.past) else settings
        return {
            "transitions": space.TRANSITIONS,
            "session_knn": space.SESSION_KNN,
            "session_embedding": space.SESSION_EMBEDDING,
            "item_knn": space.ITEM_KNN,
        }[table]

    def _asked(self, table: str) -> str | None:
        """The source that shows what a table is worth, None if it has no say."""
        if self.only:
            sources = ["item_knn", "item_knn_past"] if table == "item_knn" else [table]
            return self.only if self.only in sources else None
        if table == "embedding":
            return table  # what the others propose is scored by it, and the blend rests on it
        if table == "item_knn" and not self.ranked:
            return table if min(map(len, self.live)) else "item_knn_past"  # likewise
        told = TOLD_OF if self.ranked else self._in_order
        if table in told and _enough(self.live):
            return table  # whether or not it is a source
        if self.ranked and self._proposes(table):
            return table
        if self.ranked and table == "item_knn" and self._proposes("item_knn_past"):
            return "item_knn_past"
        return None

    @property
    def _in_order(self) -> tuple[str, ...]:
        """Sources of order that the blend asks which ranks in a ranker's place."""
        asked = blend.minds_order(self.fits.start) and not self.ranked
        return blend.IN_ORDER if asked and min(map(len, self.live)) else ()

    def _proposes(self, source: str) -> bool:
        chosen = not self.placement.sources or source in self.placement.sources
        on = value_of(self.fits.start.config, f"retrieval.{source}") > 0
        return on and chosen and _enough(self._visitors(source))

    def _visitors(self, source: str) -> Exams:
        if source == "embedding":
            return self.everyone
        if source in retrieval.OF_OPENINGS and self.fits.start.config.session.order == "kept":
            return self.openings
        return self.past if source in OF_THE_PAST else self.live

    def _for_ranker(self) -> list[str]:
        chosen = self.placement.sources or tuple(SOURCES)
        return [s for s in SOURCES if s in chosen and _enough(self._visitors(s))]

    def _by_source(self, source: str, table: str) -> Asks:
        return lambda config, exam: exam.of_source(self.fits.bundle(config, table), source)

    def _by_blend(self, config: Config, exam: Exam) -> tuple[Floats, float]:
        bundle = self.fits.bundle(config, *self.blended)
        return exam.of_lists(replace(bundle, forest=forest.EMPTY))

    def _by_ranker(self, ranked: Ranked) -> Asks:
        return lambda config, exam: exam.of_lists(ranked.bundle(config))


def _enough(exams: Exams) -> bool:
    return min(map(len, exams)) >= FEWEST


def _each(exams: Exams, change: Callable[[Exam], Exam]) -> Exams:
    return change(exams[0]), change(exams[1])
