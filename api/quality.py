"""Quality: how often the list made just before an event holds its item, live; what follows from it.

Of a share of the sessions the store is asked what it holds right before it appends. Once the answer
is on its way, the list that would have been given then is made by the same ``recommend``, and it is
counted for the bundle whether it holds the item (Dawid, "Present position and potential
developments: the prequential approach", 1984). While a bundle is on probation (`recsys.probation`),
the one that it replaced answers too, and where the new one turns out worse, the registry is led
back.

An event is asked about if the next-item protocol of the evaluation looks for it: positive, after
another one of its session, of an item that the lists may hold. Of a session's events in one request
it is the first: no list was ever made between them. What else is left out is counted by why:
``duplicate``, if it was there already, or another of its session came in between; ``late``, as
lists are made with what came after it; ``overtaken``, where aggregates had moved on before the list
was made; ``busy``, beyond what scoring may cost; ``failed``, where it could not be counted.
"""

import asyncio
import contextlib
import hashlib
import logging
import time
import zlib
from collections import Counter
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace

from api import telemetry
from recsys import rules
from recsys.aggregates import ranking_by
from recsys.bundle import Bundle
from recsys.events import LOG_ONLY_TYPES, MAX_CLOCK_SKEW, Event, InputError
from recsys.mirror import FOLLOWED, Mirror, declared, mirrored, session_of, told
from recsys.probation import AT, PLACEMENT, WORSE, outcome, words
from recsys.recommend import Request, placement_of, recommend
from recsys.registry import Registry, Succession
from recsys.session import event_weight
from recsys.shelf import Shelf
from recsys.store import Appended, Live, Store, StoreUnavailable, place_of

logger = logging.getLogger("recsys.api")

ASKED = Request(n=AT, placement=PLACEMENT)
MOST_WAITING = 64  # questions of a worker at a time
# What scoring takes of a worker's time at most, and how many seconds of it can be saved up.
MOST_TIME, MOST_SAVED = 0.1, 1.0
# Seconds in which the aggregates that a new bundle's ranker is told of are filled in.
FILLED_IN = 60.0


@dataclass(frozen=True, slots=True)
class Judged:
    """A bundle that is asked. mirror: of the aggregates that its ranker is told of."""

    bundle: Bundle
    mirror: Mirror | None

    @property
    def place(self) -> tuple[str, float] | None:
        """Where the mirror stands; somewhere else once it has moved on."""
        return (self.mirror.place, self.mirror.state.moment) if self.mirror else None

    def holds(self, live: Live, event: Event, shelf: Shelf | None) -> bool | None:
        """Whether the list for a session holds an event's item; None where none may hold it."""
        try:
            return self._holds(live, event, shelf)
        except Exception:  # whatever it is, the visitor would have got no list
            logger.exception("bundle %s makes no list", self.bundle.version)
            return False

    def _holds(self, live: Live, event: Event, shelf: Shelf | None) -> bool | None:
        bundle, item = self.bundle, event.item_id
        session = session_of(live, bundle.config, self.mirror, event.session_id)
        allowed = shelf.allowed(bundle.items, None) if shelf else None
        beyond = shelf.beyond() if shelf else None
        unseen = shelf.unseen(bundle) if shelf else None
        asked = replace(ASKED, allowed=allowed, beyond=beyond, unseen=unseen)
        if item in recommend(bundle, session, asked).item_ids:
            return True
        row = int(bundle.items.rows([item or ""])[0])
        if allowed is not None and row >= 0 and not allowed[row]:
            return None
        if beyond and row < 0 and not beyond.allowed([item or ""])[0]:
            return None
        placement = placement_of(bundle.config, PLACEMENT)
        user = int(bundle.users.rows([session.user_id])[0]) if session.user_id else -1
        out = rules.excluded(bundle, session, placement, user, ())
        return None if item in rules.barred(bundle, session, placement, out) else False


@dataclass(slots=True)
class Probation:
    """Of a bundle that took the place of the former, which stays loaded meanwhile.

    begins: Unix seconds; earlier than that nothing counts.
    """

    succession: Succession
    former: Judged
    begins: float

    @property
    def ready(self) -> bool:
        """Whether both bundles know what they are to be told."""
        if ranking_by(self.former.bundle.config) and self.former.mirror is None:
            return False
        return time.time() >= self.begins


@dataclass(frozen=True, slots=True)
class Question:
    """Do the lists made from what was known just before an event hold its item?

    judged: the bundle that serves, and the former one if there is a probation. places: theirs, just
    before the event.
    """

    event: Event
    live: Live
    judged: list[Judged]
    probation: Probation | None
    places: list[tuple[str, float] | None]


class Quality:
    """One worker's part in it. share: of the sessions, by a hash of their ids; 0 for none."""

    def __init__(self, store: Store, registry: Registry, share: float) -> None:
        self.store, self.registry, self.share = store, registry, share
        self.probation: Probation | None = None
        self.shelf: Shelf | None = None  # what may be shown at all
        self.waiting: asyncio.Queue[Question] = asyncio.Queue(MOST_WAITING)
        self._saved, self._earned = MOST_SAVED, time.monotonic()

    async def append(
        self, events: Sequence[Event], bundle: Bundle | None, mirror: Mirror | None, now: float
    ) -> Appended:
        """`Store.append`; of some sessions, what was known just before waits to be scored.

        bundle, mirror: those that serve. now: Unix seconds. Raises StoreUnavailable.
        """
        asked = self._asked(events, bundle, now) if bundle and self.share else []
        if bundle is None or not asked:
            return await self.store.append(events)
        judged, probation = [Judged(bundle, told(bundle.config, mirror))], self.probation
        if probation and probation.ready and probation.succession.version == bundle.version:
            judged.append(probation.former)
        else:
            probation = None
        reading = [asyncio.create_task(self._question(event, judged, probation)) for event in asked]
        await asyncio.sleep(0)  # in which they begin: calls leave, and are answered, in this order
        appended = await self.store.append(events)
        questions = [await question for question in reading]
        named = Counter(event.session_id for event in events)
        for question in filter(None, questions):
            session, live = question.event.session_id, question.live
            if appended.versions[session] - live.version != named[session]:
                telemetry.unscored.labels("duplicate").inc()
            elif _follows(question.event, live, bundle):
                self._put(question)
        return appended

    def _asked(self, events: Sequence[Event], bundle: Bundle, now: float) -> list[Event]:
        """The events that may be asked about."""
        firsts: dict[str, Event] = {}
        for event in events:
            drawn = zlib.crc32(event.session_id.encode()) < self.share * 2**32
            if drawn and event.type not in LOG_ONLY_TYPES:
                firsts.setdefault(event.session_id, event)
        asked: list[Event] = []
        for event in firsts.values():
            if not _positive(event, bundle):
                continue
            if now - event.timestamp > MAX_CLOCK_SKEW:
                telemetry.unscored.labels("late").inc()
            elif self._saving() <= 0 or self.waiting.qsize() + len(asked) >= MOST_WAITING:
                telemetry.unscored.labels("busy").inc()
            else:
                asked.append(event)
        return asked

    async def _question(
        self, event: Event, judged: list[Judged], probation: Probation | None
    ) -> Question | None:
        mirrors = [side.mirror for side in judged if side.mirror]
        place = min((mirror.place for mirror in mirrors), key=place_of, default="")
        try:
            live = await self.store.read(event.session_id, None, place, FOLLOWED)
        except StoreUnavailable:
            return None  # nor can it be appended
        # At once: answers to calls that were sent later move mirrors on.
        if changes := live.changes:
            followed = [mirror.apply(changes) for mirror in mirrors]
            if not all(followed) or len(changes.entries) == FOLLOWED:
                telemetry.unscored.labels("overtaken").inc()
                return None
        return Question(event, live, judged, probation, [side.place for side in judged])

    def _put(self, question: Question) -> None:
        try:
            self.waiting.put_nowait(question)
        except asyncio.QueueFull:
            telemetry.unscored.labels("busy").inc()

    async def run(self) -> None:
        """Score what waits, until cancelled."""
        while True:
            await self._score_next()

    async def _score_next(self) -> None:
        question = await self.waiting.get()
        try:
            await self._score(question)
        except StoreUnavailable:
            telemetry.unscored.labels("failed").inc()
        finally:
            self.waiting.task_done()

    async def _score(self, question: Question) -> None:
        judged, event, live = question.judged, question.event, question.live
        if [side.place for side in judged] != question.places:
            telemetry.unscored.labels("overtaken").inc()
            return
        start = time.perf_counter()
        holds = {side.bundle.version: side.holds(live, event, self.shelf) for side in judged}
        # Not more than can be saved: code that is compiled once must not silence it for minutes.
        self._saved -= min(MOST_SAVED, time.perf_counter() - start)
        # What rules keep out of either list is a decision, and says nothing of quality.
        hits = {version: held for version, held in holds.items() if held is not None}
        if len(hits) < len(judged):
            return
        name = question.probation.succession.name if question.probation else ""
        await self.store.score(hits, name, _digest(live.user_id, event.session_id))

    def _saving(self) -> float:
        """Seconds that scoring may take now."""
        now = time.monotonic()
        self._saved = min(MOST_SAVED, self._saved + MOST_TIME * (now - self._earned))
        self._earned = now
        return self._saved

    async def begun(self, bundle: Bundle, serving: Judged | None) -> Probation | None:
        """The probation of a bundle that is to serve, if it has one. serving: until now."""
        if not self.share:
            return None
        try:
            succession = await asyncio.to_thread(self.registry.succession)
            if succession is None or succession.version != bundle.version:
                return None
            with contextlib.suppress(StoreUnavailable):  # then it shows later
                counts = await self.store.probation(succession.name)
                if outcome(counts, time.time() - succession.since):
                    return None
            if serving is None or serving.bundle.version != succession.former:
                former = await asyncio.to_thread(self.registry.load, succession.former)
                serving = Judged(former, None)
        except (InputError, OSError) as error:
            logger.error("bundle %s is not on probation: %s", bundle.version, error)
            return None
        logger.info("bundle %s is on probation after %s", bundle.version, succession.former)
        begins = succession.since + (FILLED_IN if ranking_by(bundle.config) else 0.0)
        return Probation(succession, serving, begins)

    async def keep_up(self, bundle: Bundle) -> None:
        """Look how the probation goes, and end it where enough is known. bundle: that serves.

        Raises StoreUnavailable.
        """
        if (probation := self.probation) is None:
            return
        succession, former, mirror = probation.succession, probation.former, probation.former.mirror
        config, base = former.bundle.config, former.bundle.snapshot
        if ranking_by(config) and (mirror is None or await mirror.catch_up(self.store) is None):
            beside = ((bundle.config, bundle.snapshot),)
            read = await mirrored(self.store, config, base, declare=False, beside=beside)
            probation.former = Judged(former.bundle, read)
        counts = await self.store.probation(succession.name)
        found = outcome(counts, time.time() - succession.since)
        if found is None:
            return
        if found == WORSE:
            figures = asdict(replace(counts, ended=found))
            why = {"reason": words(counts), "former": succession.former, **figures}
            try:
                withdrawn = await asyncio.to_thread(self.registry.withdraw, succession, why)
            except (InputError, OSError) as error:  # tried again at the next look
                logger.error("bundle %s cannot be withdrawn: %s", bundle.version, error)
                return
            if withdrawn:  # else somebody was faster, who may have had another reason
                telemetry.rollbacks.inc()
                logger.warning("bundle %s is withdrawn: %s", bundle.version, why["reason"])
        else:
            logger.info("bundle %s is kept: %s", bundle.version, words(counts))
            await declared(self.store, (bundle.config, bundle.snapshot))
        await self.store.end_probation(succession.name, found)
        self.probation = None


def _positive(event: Event, bundle: Bundle) -> bool:
    return event.item_id is not None and event_weight(event, bundle.config.events) > 0


def _follows(event: Event, live: Live, bundle: Bundle) -> bool:
    """Whether an event comes after a positive one of its session, and after all of it."""
    if not any(_positive(earlier, bundle) for earlier in live.events):
        return False
    if any(other.timestamp > event.timestamp for other in live.events):
        telemetry.unscored.labels("late").inc()
        return False
    return True


def _digest(user: str | None, session: str) -> str:
    """A visitor, whom nobody needs to know."""
    who = f"s{session}" if user is None else f"u{user}"
    return hashlib.blake2b(who.encode(), digest_size=8).hexdigest()
