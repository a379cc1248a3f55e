"""Engine: what a worker process serves from: the active bundle, the store, the settings."""

import asyncio
import contextlib
import logging
import time
from collections.abc import Callable
from dataclasses import dataclass, field

import fastapi

from api import telemetry
from api.errors import Problem
from api.quality import Judged, Probation, Quality
from api.settings import Settings
from api.turns import Turns
from recsys.aggregates import Aggregates, ranking_by
from recsys.bundle import Bundle
from recsys.events import Event
from recsys.mirror import Mirror, mirrored, told
from recsys.recommend import Request, recommend
from recsys.registry import Registry
from recsys.session import Session
from recsys.shelf import Shelf, shelved
from recsys.store import Store, StoreUnavailable

logger = logging.getLogger("recsys.api")

RETRY_LOAD = 30.0  # seconds until a bundle that could not be loaded is tried again
AT_A_LOOK = 50  # changes of aggregates that are to come at a time
SHORTEST = 0.02  # seconds between two looks for them


@dataclass
class Engine:
    """One worker's state. A handler takes ``bundle`` once, so a swap is one assignment."""

    settings: Settings
    store: Store
    registry: Registry
    now: Callable[[], float] = time.time  # Unix seconds
    is_late: Callable[[float], bool] = lambda _: False  # a list that waited so many seconds
    bundle: Bundle | None = None
    mirror: Mirror | None = None  # of the aggregates that the bundle declares
    shelf: Shelf | None = None  # of the catalogue
    turns: Turns = field(default_factory=Turns)  # of the lists
    flaw: str | None = None  # why the active bundle could not be loaded
    _failed: tuple[str, float] = field(default=("", 0.0), repr=False)
    _shelving: asyncio.Lock = field(default_factory=asyncio.Lock, repr=False)

    def __post_init__(self) -> None:
        self.quality = Quality(self.store, self.registry, self.settings.quality_sample)

    async def refresh(self) -> None:
        """Load the active bundle if it is another one; keep the old one when that fails."""
        version = await asyncio.to_thread(self._wanted)
        if version is None or (self.bundle and self.bundle.version == version):
            return
        failed, when = self._failed
        if failed == version and time.monotonic() < when + RETRY_LOAD:
            return
        try:
            bundle = await asyncio.to_thread(self._loaded, version)
        except Exception as error:  # whatever is wrong with it, the old one goes on serving
            self.flaw, self._failed = str(error), (version, time.monotonic())
            kept = self.bundle.version if self.bundle else "none"
            logger.error("bundle %s cannot be loaded, keeping %s: %s", version, kept, error)
            return
        before = Judged(self.bundle, told(self.bundle.config, self.mirror)) if self.bundle else None
        probation = await self.quality.begun(bundle, before)
        mirror = await self._mirrored(bundle, probation, declare=True)
        telemetry.bundle_swapped(self.bundle.version if self.bundle else None, version)
        if self.shelf:
            await self.shelf.align(bundle)
        self.bundle, self.mirror, self.flaw = bundle, mirror, None
        self.quality.probation = probation
        logger.info("serving bundle %s", version)

    async def up_to_date_shelf(self) -> Shelf:
        """The catalogue with every change acknowledged before this call. Raises StoreUnavailable.

        Read anew where it fell behind or never was.
        """
        while (shelf := self.shelf) is None or not await shelf.catch_up(self.store):
            async with self._shelving:
                if self.shelf is not shelf:  # somebody else has read it meanwhile
                    continue
                anew = await shelved(self.store)
                if self.bundle:
                    await anew.align(self.bundle)
                if shelf and (before := len(shelf.known)):
                    now = len(anew.known)
                    logger.warning("the catalogue was read anew: %d items, %d before", now, before)
                self.shelf = self.quality.shelf = anew
        return shelf

    async def keep_up(self) -> int:
        """Bring the mirror up to the store, by so many changes; read it anew where it fell behind
        or never was."""
        bundle, mirror, taken = self.bundle, self.mirror, None
        if bundle is None:
            return 0
        with contextlib.suppress(StoreUnavailable):  # it stays what it was
            if mirror:
                taken = await mirror.catch_up(self.store)
            if taken is None:
                mirror = await self._mirrored(bundle, self.quality.probation, declare=False)
        if bundle is self.bundle:
            self.mirror = mirror
        return taken or 0

    async def _mirrored(
        self, bundle: Bundle, probation: Probation | None, *, declare: bool
    ) -> Mirror | None:
        former = probation.former.bundle if probation else None
        beside = ((former.config, former.snapshot),) if former else ()
        config, base = bundle.config, bundle.snapshot
        try:
            return await mirrored(self.store, config, base, declare=declare, beside=beside)
        except StoreUnavailable as error:
            logger.warning("aggregates cannot be read: %s", error)
            return None

    async def follow(self) -> None:
        """Follow the store's aggregates until cancelled, the more often the more there is: what
        changes in a busy second takes as long as many lists, which would wait for all of it."""
        pause = longest = self.settings.poll_seconds
        while True:
            await asyncio.sleep(pause)
            taken = await self.keep_up()
            pause = min(longest, max(SHORTEST, pause * min(2.0, AT_A_LOOK / max(1, taken))))

    async def watch(self) -> None:
        """Follow the registry's pointer, and look after what is kept, until cancelled."""
        while True:
            await asyncio.sleep(self.settings.poll_seconds)
            await self.refresh()
            with contextlib.suppress(StoreUnavailable):
                await self.up_to_date_shelf()
                if self.mirror:
                    await self.mirror.sweep(self.store)
                if self.bundle:
                    await self.quality.keep_up(self.bundle)

    def versions(self) -> list[str]:
        """Of the bundle that serves, and of the one that it is compared with."""
        probation = self.quality.probation
        loaded = [self.bundle, probation.former.bundle if probation else None]
        return [bundle.version for bundle in loaded if bundle]

    def active_bundle(self) -> Bundle:
        """The bundle to answer from. Raises Problem 503 that says what to run."""
        bundle = self.bundle
        if bundle is None:
            raise Problem(503, "no-bundle", self._no_bundle(), headers={"Retry-After": "5"})
        return bundle

    def _loaded(self, version: str) -> Bundle:
        """The bundle, its ids at hand, after an answer of every placement: no visitor waits for
        look-ups, or for code to compile."""
        bundle = self.registry.load(version)
        bundle.items.hold()
        click = Event("view", "warm-up", bundle.items.ids([0])[0], timestamp=0.0)
        # Of a stream that has brought nothing: what the bundle knows itself is not made for this.
        nothing = Aggregates(ranking_by(bundle.config))
        session = Session.from_events([click], aggregates=nothing)
        for placement in bundle.config.placements:
            for diversity in (0.0, 0.5):
                recommend(bundle, session, Request(placement=placement, diversity=diversity))
        return bundle

    def _wanted(self) -> str | None:
        try:
            return self.registry.active()
        except OSError as error:
            logger.error("the active bundle cannot be looked up: %s", error)
            return None

    def _no_bundle(self) -> str:
        if self.flaw:
            return f"the active bundle cannot be loaded: {self.flaw}"
        return (
            "no bundle has been trained yet: "
            f"run `recsys train LOG --data-dir {self.settings.data_dir}`"
        )


def engine_of(request: fastapi.Request) -> Engine:
    engine: Engine = request.app.state.engine
    return engine
