"""Systems: who answers in an evaluation, and what each is told.

All are ``recommend`` over one bundle. ``popular`` is told nothing; ``batch`` who the known user is,
so all that training knew of them, but nothing live; ``session`` the live session, but not whose it
is; ``full`` all of it, which is what the API answers. Items that the placement takes out of the
full list are taken out of all, so none spends places on items that cannot be right.

``batch`` is no straw man: several mixes of what a batch system could know answer, and the strongest
on the very lists of the evaluation is taken, which favours it over ``full``.
"""

from collections.abc import Collection, Sequence
from dataclasses import replace
from functools import lru_cache
from itertools import islice
from time import perf_counter_ns

from recsys import rules
from recsys.aggregate_log import LogFold
from recsys.bundle import Bundle
from recsys.config import BLEND, nearest
from recsys.evaluation.freshness import stale
from recsys.evaluation.replay import Sample
from recsys.evaluation.split import EvaluationError
from recsys.recommend import Request, recommend
from recsys.retrieval import SOURCES
from recsys.session import Session, Trail

SYSTEMS = ("popular", "batch", "session", "full")

# Systems on request: told everything like ``full``, but ranked by the blend or one source alone.
ON_REQUEST = ("blend", *(source for source in SOURCES if source != "popular"))

# Rankings of what a batch system could know; "own answer" is the product's without a session,
# "blend" its blend, "fold_in" the embedding's share of it.
STRANGER_MIXES = ("popular", "recent")
MIXES = (*STRANGER_MIXES, "own", "item_knn_past", "fold_in", "blend", "own answer")
FOLD_IN = {**dict.fromkeys(BLEND, 0.0), "embedding": 1.0, "popularity": 0.05}

REMEMBERED = 4_096  # users whose lists without a session are kept
ROOM = 256  # items asked for beyond n, so that such a list serves whatever is taken out of it

Rows = tuple[int, ...]  # item rows, best first


def check_systems(names: Collection[str]) -> None:
    """Refuse names of systems that there are not. Raises EvaluationError."""
    known = [*SYSTEMS, *ON_REQUEST]
    for name in names:
        if name not in known:
            raise EvaluationError(
                f"--systems: unknown system {name!r}{nearest(name, known)}; "
                f"known: all, {', '.join(known)}"
            )


def mix_name(mix: str) -> str:
    """The name of a batch mix among the lists of a panel."""
    return f"batch: {mix}"


def stale_name(seconds: float) -> str:
    """The name among the lists of a panel of ``full`` that sees events so old or older."""
    return f"full: {seconds:g} s"


class Panel:
    """Asks ``recommend`` on behalf of every system.

    n: the length of the lists. extra: of ON_REQUEST. delays: seconds by which ``full`` also lags,
    each above 0. fold: of aggregates, to lag
    with them. names: of the lists of an answer, in order.
    """

    def __init__(
        self,
        bundle: Bundle,
        placement: str,
        n: int,
        extra: Sequence[str] = (),
        delays: Sequence[float] = (),
        fold: LogFold | None = None,
    ) -> None:
        self.bundle = bundle
        self.request = Request(n=n, placement=placement)
        # Warms the code before it is timed, and refuses an unknown placement before any work.
        recommend(bundle, Session(), self.request)
        self.placement = bundle.config.placements[placement]
        self.told_all = [self._ranked_by(name) for name in extra]
        self.delays = delays
        self.folds = {seconds: fold.again() for seconds in delays} if fold else {}
        self.mixes = {mix: self._ranked_by(mix) for mix in MIXES}
        if not len(bundle.users):
            self.mixes = {mix: self.mixes[mix] for mix in STRANGER_MIXES}
        self.names = [
            *("popular", "session", "full"),
            *(mix_name(mix) for mix in self.mixes if mix != "popular"),
            *extra,
            *(stale_name(seconds) for seconds in delays),
        ]
        ids = bundle.items.ids(range(len(bundle.items)))
        # Of the bundle, and behind these a row for each other item that is met.
        self.row_of = {item: row for row, item in enumerate(ids)}
        self.user_row = lru_cache(REMEMBERED)(self._user_row)
        self.deep_list = lru_cache(REMEMBERED * len(self.mixes))(self._deep_list)

    def barred(self, session: Session) -> tuple[str, ...]:
        """Ids that the placement keeps out of the full list, sorted."""
        user = self.user_row(session.user_id)
        out = rules.excluded(self.bundle, session, self.placement, user, ())
        return tuple(sorted(rules.barred(self.bundle, session, self.placement, out)))

    def knows(self, user_id: str | None) -> bool:
        """Whether training knew the user."""
        return self.user_row(user_id) >= 0

    def lists(
        self, sample: Sample, session: Session, barred: tuple[str, ...]
    ) -> tuple[list[Rows], int]:
        """The lists in the order of names, and the nanoseconds that the full one took.

        session: that of the sample. barred: what :meth:`barred` gave for it.
        """
        start = perf_counter_ns()
        answer = recommend(self.bundle, session, self.request)
        elapsed = perf_counter_ns() - start
        full = self._rows(answer.item_ids)
        known = session.user_id if self.knows(session.user_id) else None
        lists = [
            self._unaware("popular", None, barred),
            self._as_stranger(session, barred) if known or _has(session.past) else full,
            full,
            *(self._unaware(mix, known, barred) for mix in self.mixes if mix != "popular"),
            *(self._list(bundle, session, barred) for bundle in self.told_all),
            *self._stale(sample, full, barred),
        ]
        return lists, elapsed

    def _as_stranger(self, session: Session, barred: tuple[str, ...]) -> Rows:
        return self._list(self.bundle, replace(session, user_id=None, past=Trail()), barred)

    def _stale(self, sample: Sample, full: Rows, barred: tuple[str, ...]) -> list[Rows]:
        """``full`` for each delay; asked once where two delays hide the same events."""
        now = sample.moment
        seen = {(len(now.events), len(now.user_events), now.known): full}
        lists = []
        for seconds in self.delays:
            then = stale(now, seconds)
            if self.folds:
                fold = self.folds[seconds]
                then = replace(then, fold=fold, known=fold.before(now.event.timestamp - seconds))
            key = len(then.events), len(then.user_events), then.known
            if key not in seen:
                seen[key] = self._list(self.bundle, then.session(self.bundle.config), barred)
            lists.append(seen[key])
        return lists

    def _unaware(self, mix: str, user_id: str | None, barred: tuple[str, ...]) -> Rows:
        """What a batch mix answers for a known user, or for a stranger."""
        deep = self.deep_list(mix, user_id)
        out = {self.row_of.get(item, -1) for item in barred}
        rows = tuple(islice((row for row in deep if row not in out), self.request.n))
        if len(rows) == self.request.n or len(deep) < self.request.n + ROOM:
            return rows
        return self._list(self.mixes[mix], Session(user_id=user_id), barred)

    def _deep_list(self, mix: str, user_id: str | None) -> Rows:
        request = replace(self.request, n=self.request.n + ROOM)
        answer = recommend(self.mixes[mix], Session(user_id=user_id), request)
        return self._rows(answer.item_ids)

    def _list(self, bundle: Bundle, session: Session, barred: tuple[str, ...]) -> Rows:
        answer = recommend(bundle, session, replace(self.request, exclude=barred))
        return self._rows(answer.item_ids)

    def row(self, item: str) -> int:
        """The row of an item; of one that training never saw, the same each time too."""
        return self.row_of.setdefault(item, len(self.row_of))

    def _rows(self, item_ids: list[str]) -> Rows:
        return tuple(map(self.row, item_ids))

    def _user_row(self, user_id: str | None) -> int:
        return -1 if user_id is None else int(self.bundle.users.rows([user_id])[0])

    def _ranked_by(self, ranking: str) -> Bundle:
        """The same bundle with another ranking in the placement that is asked."""
        config = self.bundle.config
        if ranking == "own answer":
            return self.bundle
        if ranking == "fold_in":
            config = replace(config, blend=replace(config.blend, weights=FOLD_IN))
            ranking = "blend"
        config = config.with_placement(self.request.placement, ranking=ranking, sources=())
        return replace(self.bundle, config=config)


def _has(trail: Trail) -> bool:
    return bool(trail.items or trail.rejected)
