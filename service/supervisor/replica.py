"""One replica: Redis followed, engines ready, queries on the right ones, HTTP workers in front, and others told."""

import asyncio
import logging
import signal
import socket
from collections.abc import Iterator
from pathlib import Path
from typing import Final
from uuid import uuid4

from service.cores import Shares
from service.errors import ServiceError
from service.garbage import spare_the_old
from service.settings import Settings
from service.store import CatalogSighting, Deployment, Lost, ReplicaReport, Sighting, Store, StoreDown
from service.store.deployment import AUTOMATIC

from .announce import Announce
from .board import Board
from .catalog import Feeds
from .codes import Codes
from .engine import Engine
from .fleet import Fleet
from .follower import Follower
from .forks import Forks, can_fork, starter
from .last import remembered, remembered_catalog
from .plant import Plant
from .probation import Limits, Probation
from .processes import environment, without_secrets
from .reading import Reading
from .reporter import Reporter, describe
from .scribe import Scribe
from .workers import Workers

_MARGIN_S: Final = 3.0  # beyond a worker's own limit on its drain
_KEPT: Final = 2  # earlier versions whose files stay, for a rollback that need not fetch

logger = logging.getLogger(__name__)


class Replica:
    """Everything between the settings and the processes; `run` is its whole life."""

    def __init__(
        self,
        settings: Settings,
        listener: socket.socket,
        store: Store,
        folder: Path,
        last: Path,
        shares: Shares | None,
        announce: Announce,
    ) -> None:
        """`settings` are those of the children: they name the Redis; `folder` is short, private and fresh; in `last`
        it is kept what was served last; engines run on their share of the cores (None: all share all).

        To be made inside the event loop.
        """
        metrics = folder / "metrics"
        metrics.mkdir()
        variables = environment(settings, str(metrics))
        self._settings = settings
        self._store = store
        self._announce = announce
        self._deployment: Deployment | None = None
        self._board = Board(replica=uuid4().hex[:12])
        self._codes = Codes(store)
        self._feeds = Feeds(self._codes, self._board)
        cache = settings.data_dir / "cache" / last.name  # names mean other models in another namespace
        unprivileged = without_secrets(variables)
        cores = shares.engines if shares else None
        self._forks = Forks(unprivileged) if can_fork() else None
        self._plant = Plant(store, cache, folder, starter(unprivileged, self._forks), self._feeds, self._in_use, cores)
        self._workers = Workers(listener, folder / "control", variables, settings.workers)
        self._reading = Reading(self._plant.reader, settings.drain_timeout_s)
        self._fleet = self._new_fleet()
        self._probation = Probation(_limits(settings), self._roll_back)
        self._reporter = Reporter(store, self._report, self._on_refusal)
        self._loop = asyncio.get_running_loop()
        self._last = last
        self._scribe = Scribe(self._last, self._feeds.as_last)
        self._stop = asyncio.Event()
        self._connect()

    async def run(self) -> None:
        """Serves until SIGTERM or SIGINT, then drains; returns when every child has ended."""
        for number in (signal.SIGTERM, signal.SIGINT):
            asyncio.get_running_loop().add_signal_handler(number, self._stop.set)
        follower = Follower(self._store, self._settings.poll_interval_s, self._on_sighting)
        spare_the_old()
        if self._forks:
            await self._forks.start()
        await self._workers.start()
        follower.start()
        self._reporter.start()
        announcing = asyncio.create_task(self._announce_first())
        await self._stop.wait()
        announcing.cancel()
        await self._drain(follower)

    def _new_fleet(self) -> Fleet:
        return Fleet(
            self._board,
            self._workers,
            fetch=self._plant.fetch,
            start=self._plant.engine,
            drain_timeout_s=self._settings.drain_timeout_s,
            reading=self._reading,
            warm_previous=self._settings.warm_previous,
            warm_memory_percent=self._settings.warm_memory_percent,
        )

    def _connect(self) -> None:
        """Who hears of what."""
        self._board.listeners += [self._workers.tell, lambda _: self._reporter.changed()]
        self._workers.on_retry = self._fleet.nudge
        self._workers.on_counts = self._probation.count
        self._fleet.on_switch = self._on_switch
        self._fleet.on_death = self._probation.died
        self._reading.on_change = self._fleet.changed
        self._codes.on_growth = self._scribe.catalog_changed

    async def _drain(self, follower: Follower) -> None:
        """From the outside in: readiness, connections, workers, engines. Until the last answer Redis is heard, but of
        it only the catalog.

        Until connections are refused, answers say "Connection: close", and who probes readiness has time to find out.
        """
        logger.info("draining")
        self._board.drain()
        await asyncio.sleep(self._settings.drain_notice_s)
        await self._workers.stop(self._settings.drain_timeout_s + _MARGIN_S)
        await follower.stop(_MARGIN_S)
        self._reporter.stop()
        await asyncio.gather(self._fleet.stop(), self._reading.stop())
        if self._forks:
            await self._forks.stop()
        self._scribe.close()

    # ---- what Redis says

    def _on_sighting(self, sighting: Sighting) -> None:
        if self._board.status.draining and not isinstance(sighting, CatalogSighting):
            return  # no engine is started any more; what is hidden must be hidden as long as anything is answered
        match sighting:
            case Deployment():
                self._on_deployment(sighting)
            case CatalogSighting():
                self._on_catalog(sighting)
            case Lost(last):
                self._on_loss(last.version)
            case StoreDown():
                self._on_outage(sighting.reason)
            case None:
                self._on_nothing()

    def _on_catalog(self, sighting: CatalogSighting) -> None:
        """Where Redis has none, what was obeyed last is obeyed on, also by a process that has just begun. If it cannot
        be read any more, Redis does not know either."""
        if sighting.revision < 1 and not self._feeds.catalog.known.is_set():
            self._recall_catalog()
            if self._board.status.catalog_unknown:
                self._board.catalog_lost(True)
                return
        self._board.catalog_unknown(None)
        self._feeds.take(sighting)
        if sighting.revision < 1:
            self._scribe.catalog_now()
        else:
            self._scribe.catalog_changed()

    def _on_nothing(self) -> None:
        """There is no deployment. Where one was served from here, Redis has lost it, and it is served on."""
        if self._deployment is None and (last := remembered(self._last)):
            self._recall_catalog()
            self._recall(last)
        if self._deployment and self._deployment.version:
            self._on_loss(self._deployment.version)
        else:
            self._board.redis("ok")
            self._announce.idle()

    def _on_loss(self, version: str | None) -> None:
        logger.error("Redis has lost the name of the active model; %s keeps answering", version)
        self._board.redis("lost")

    def _on_deployment(self, deployment: Deployment) -> None:
        self._probation.expect(deployment)
        before, self._deployment = self._deployment, deployment
        if deployment != before:
            self._board.wanted(deployment.version, deployment.epoch)
            self._fleet.follow(deployment)
            self._remember()
        if before and deployment.version != before.version and deployment.reason.startswith(AUTOMATIC):
            self._board.swap("rolled_back")
        if deployment.version is None:
            self._announce.idle()
        self._board.redis("ok")
        self._fleet.nudge()

    def _on_outage(self, reason: str) -> None:
        """What serves goes on; at the start, what was served last does."""
        logger.error("%s", reason)
        self._board.redis("unreachable", reason)
        if not self._feeds.catalog.known.is_set():
            self._recall_catalog()
        if self._deployment is None and (last := remembered(self._last)):
            self._recall(last)

    def _recall_catalog(self) -> None:
        """Also where Redis told the deployment and then fell silent: what was hidden stays hidden.

        Where nothing was served from here, or what is on the disk is damaged, what is hidden is not known, and engines
        wait for Redis to tell.
        """
        try:
            catalog = remembered_catalog(self._last)
        except ServiceError as error:
            if self._board.status.catalog_unknown is None:
                logger.error("%s; nothing is served until Redis tells", error)
            self._board.catalog_unknown(str(error))
            return
        self._board.catalog_unknown(None)
        if catalog:
            self._feeds.recall(catalog)
        elif remembered(self._last):
            self._feeds.catalog.known.set()  # nothing had been changed

    def _recall(self, last: Deployment) -> None:
        logger.warning("going on with what was served last: model %s", last.version)
        self._deployment = last
        self._board.wanted(last.version, last.epoch)
        self._fleet.follow(last)

    # ---- what the fleet says

    def _on_switch(self, engine: Engine) -> None:
        self._probation.switched(engine.version)
        self._feeds.tell()
        self._remember()

    def _remember(self) -> None:
        """Only what has proved that it can be served."""
        if self._deployment and self._deployment.version == self._board.serving_version is not None:
            self._scribe.deployment(self._deployment)

    async def _announce_first(self) -> None:
        engine = await self._fleet.first_ready
        await self._workers.all_follow()
        self._announce.ready(engine)

    # ---- what others ask

    def _roll_back(self, version: str, reason: str) -> None:
        self._store.rollback(if_active=version, reason=reason)

    def _report(self) -> ReplicaReport:
        return describe(self._board.status, self._announce.address, self._board.serving_version)

    def _on_refusal(self, reason: str | None) -> None:
        """In the reporter's thread."""
        self._loop.call_soon_threadsafe(self._board.redis_refusal, reason)

    def _in_use(self) -> Iterator[str]:
        yield from self._fleet.versions
        if self._deployment:
            yield from self._deployment.roles
            yield from self._deployment.previous[:_KEPT]


def _limits(settings: Settings) -> Limits:
    return Limits(
        window_s=settings.rollback_window_s,
        error_percent=settings.rollback_error_percent,
        exhausted_percent=settings.rollback_exhausted_percent,
        min_requests=settings.rollback_min_requests,
    )
