"""Plan: which stages a log gives reason for, and whom each of them asks."""

from collections.abc import Callable
from dataclasses import replace

from recsys import ranking, retrieval
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
from recsys.tuning.space import Setting, Values, candidates_of, value_of, with_values
from recsys.tuning.stages import Stage

# Questions without which a kind of visitor is too rare to tune for.
FEWEST = 50

# Sources that know a visitor by what was done before the session.
OF_THE_PAST = ("embedding", "item_knn_past", "own")

# Source -> what is searched of it and its weight in the time; the session embedding's fits are the
# dear ones. The settings are those of the table of the same name, which is what is fitted.
ALONE: dict[str, tuple[tuple[Setting, ...], float]] = {
    "transitions": (space.TRANSITIONS, 1),
    "session_knn": (space.SESSION_KNN, 2),
    "session_embedding": (space.SESSION_EMBEDDING, 4),
    "item_knn": (space.ITEM_KNN, 1),
    "embedding": (space.EMBEDDING, 2),
}
BLEND, WEIGH, RANKER = 1.0, 3.0, 3.0  # weights of the other stages

# One epoch tells a bad session embedding from a good one.
FIRST_LOOK: dict[str, Values] = {"session_embedding": {"session_embedding.epochs": 1}}

ONLY_EMBEDDING: Values = {
    "blend.weights.embedding": 1.0,
    "blend.weights.item_knn": 0.0,
    "blend.weights.item_knn_past": 0.0,
    "blend.weights.popularity": 0.0,
}

Asks = Callable[[Config, Exam], tuple[Floats, float]]
Exams = tuple[Exam, Exam]  # for the search, for the proof


class Plan:
    """What there is to tune for one head and tail.

    live: asked in a session. openings: asked before it. past: those of both of whom more is known
    than the session. by_ranker, by_blend: who answers. only: the source that the placement asks and
    no other, if it is so.
    """

    def __init__(self, fits: Fits, exams: Exams) -> None:
        self.fits = fits
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

    def alone(self) -> list[Stage]:
        """A stage for each source that has a say, each asked alone."""
        stages = []
        for source, (settings, weight) in ALONE.items():
            asked = self._asked(source)
            if asked is not None:
                asks, exams = asked
                look = FIRST_LOOK.get(source, {})
                stages.append(Stage(source, weight, settings, asks, *exams, look))
        return stages

    def blend(self) -> Stage | None:
        """The blend's weights, where it ranks."""
        fewest = FEWEST if self.ranked else 1
        if self.only or min(map(len, self.by_blend)) < fewest:
            return None
        settings = space.BLEND
        if not self.ranked:
            settings += space.BLEND_SESSION
        if _enough(self.openings):
            settings += space.BLEND_PAST
        return Stage("blend", BLEND, settings, self._by_blend, *self.by_blend)

    def weigh(self, ranked: Ranked) -> Stage:
        """Which sources the ranker asks."""
        settings = counts_of(self._for_ranker())
        return Stage("sources", WEIGH, settings, self._by_ranker(ranked), *self.by_ranker)

    def ranker(self, ranked: Ranked, config: Config) -> Stage:
        """The numbers of candidates of the sources that are on, and the ranker's own settings."""
        on = [s for s in self._for_ranker() if value_of(config, f"retrieval.{s}")]
        settings = (*map(candidates_of, on), *space.RANKER)
        return Stage("ranker", RANKER, settings, self._by_ranker(ranked), *self.by_ranker)

    def _ranked(self, question: Question) -> bool:
        """Whether the ranker answers a question."""
        if self.placement.ranking != "auto":
            return False
        start = self.fits.start
        who = retrieval.profile(start, question.moment.session(start.config))
        return ranking.uses_ranker(start, who)

    def _asked(self, source: str) -> tuple[Asks, Exams] | None:
        """How a source is asked alone and whom, None if it has no say."""
        if self.only or self.ranked:
            if self._proposes(source):
                return self._by_source(source, source), self._visitors(source)
            if source == "item_knn" and self._proposes("item_knn_past"):
                return self._by_source("item_knn_past", source), self.past
            return None
        if source == "item_knn":
            return self._by_source(source, source), self.live
        if source == "embedding":
            return self._by_embedding, self.live
        return None

    def _proposes(self, source: str) -> bool:
        if self.only:
            return source == self.only
        chosen = not self.placement.sources or source in self.placement.sources
        on = value_of(self.fits.start.config, f"retrieval.{source}") > 0
        return on and chosen and _enough(self._visitors(source))

    def _visitors(self, source: str) -> Exams:
        return self.past if source in OF_THE_PAST else self.live

    def _for_ranker(self) -> list[str]:
        chosen = self.placement.sources or tuple(SOURCES)
        return [s for s in SOURCES if s in chosen and _enough(self._visitors(s))]

    def _by_source(self, source: str, table: str) -> Asks:
        return lambda config, exam: exam.of_source(self.fits.bundle(config, table), source)

    def _by_embedding(self, config: Config, exam: Exam) -> tuple[Floats, float]:
        """What the embedding puts first: the blend with no weight on anything else."""
        return self._by_blend(with_values(config, ONLY_EMBEDDING), exam)

    def _by_blend(self, config: Config, exam: Exam) -> tuple[Floats, float]:
        bundle = self.fits.bundle(config, "embedding", "item_knn")
        return exam.of_lists(replace(bundle, forest=forest.EMPTY))

    def _by_ranker(self, ranked: Ranked) -> Asks:
        return lambda config, exam: exam.of_lists(ranked.bundle(config))


def _enough(exams: Exams) -> bool:
    return min(map(len, exams)) >= FEWEST


def _each(exams: Exams, change: Callable[[Exam], Exam]) -> Exams:
    return change(exams[0]), change(exams[1])
