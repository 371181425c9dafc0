"""One replica: Redis followed, one engine serving, HTTP workers in front of it."""

import asyncio
import itertools
import logging
import shutil
import signal
import socket
from collections.abc import Iterable
from functools import partial
from pathlib import Path
from typing import Final

from models.artifact import MANIFEST
from service.settings import Settings
from service.store import CatalogSighting, Deployment, Lost, Sighting, Store, StoreDown

from .board import Board
from .engine import Engine
from .fleet import Fleet
from .follower import Follower
from .processes import environment, without_secrets
from .workers import Workers

_NOTICE_S: Final = 0.3  # answers say "Connection: close" for that long before connections are closed
_MARGIN_S: Final = 3.0  # beyond a worker's own limit on its drain
_KEPT: Final = 2  # earlier versions whose files stay, for a rollback that need not fetch

logger = logging.getLogger(__name__)


class Replica:
    """Everything between the settings and the processes; `run` is its whole life."""

    def __init__(self, settings: Settings, listener: socket.socket, store: Store, folder: Path) -> None:
        """`settings` are those of the children: they name the Redis; `folder` is short, private and fresh."""
        metrics = folder / "metrics"
        metrics.mkdir()
        variables = environment(settings, str(metrics))
        self._settings = settings
        self._store = store
        self._cache = settings.data_dir / "cache"
        self._previous: tuple[str, ...] = ()
        self._sockets = (folder / f"engine-{number}" for number in itertools.count(1))
        self._engine_environment = without_secrets(variables)
        self._board = Board()
        self._workers = Workers(listener, folder / "control", variables, settings.workers)
        self._stop = asyncio.Event()

    async def run(self, announce: "Announce") -> None:
        """Serves until SIGTERM or SIGINT, then drains; returns when every child has ended."""
        for number in (signal.SIGTERM, signal.SIGINT):
            asyncio.get_running_loop().add_signal_handler(number, self._stop.set)
        self._announce = announce
        self._fleet = self._new_fleet()
        self._board.listener = self._workers.tell
        self._workers.on_retry = self._fleet.nudge
        follower = Follower(self._store, self._settings.poll_interval_s, self._on_sighting)
        await self._workers.start()
        follower.start()
        announcing = asyncio.create_task(self._announce_first())
        await self._stop.wait()
        announcing.cancel()
        await self._drain(follower)

    def _new_fleet(self) -> Fleet:
        return Fleet(
            self._board,
            self._workers,
            fetch=self._fetch,
            start=lambda folder: Engine.start(folder, next(self._sockets), self._engine_environment),
            drain_timeout_s=self._settings.drain_timeout_s,
        )

    async def _drain(self, follower: Follower) -> None:
        """From the outside in: readiness, connections, workers, engines."""
        logger.info("draining")
        self._board.drain()
        await asyncio.sleep(_NOTICE_S)
        await self._workers.stop(self._settings.drain_timeout_s + _MARGIN_S)
        await self._fleet.stop()
        await follower.stop(_MARGIN_S)

    def _on_sighting(self, sighting: Sighting) -> None:
        match sighting:
            case Deployment():
                self._on_deployment(sighting)
            case CatalogSighting():
                self._board.redis("ok")
            case Lost():
                logger.error("Redis has lost the name of the active model; %s keeps answering", sighting.last.version)
                self._board.redis("lost")
            case StoreDown():
                logger.error("%s", sighting.reason)
                self._board.redis("unreachable", sighting.reason)
            case None:
                self._board.redis("ok")
                self._announce.idle()

    def _on_deployment(self, deployment: Deployment) -> None:
        status = self._board.status
        self._previous = deployment.previous
        if deployment.version is None:
            self._announce.idle()
        elif (deployment.version, deployment.epoch) != (status.active_version, status.active_epoch):
            self._board.wanted(deployment.version, deployment.epoch)
            self._fleet.want(deployment.version)
        self._board.redis("ok")
        self._fleet.nudge()

    async def _announce_first(self) -> None:
        engine = await self._fleet.first_ready
        await self._workers.all_follow()
        self._announce.ready(engine)

    async def _fetch(self, version: str) -> Path:
        keep = {version, self._board.serving_version, *self._previous[:_KEPT]}
        artifact = await asyncio.to_thread(self._store.fetch, version, self._cache)
        await asyncio.to_thread(prune, self._cache, keep)
        return artifact.folder


class Announce:
    """What the supervisor prints: one line when it is ready, and one if it waits for a model."""

    def __init__(self, address: str, redis: str) -> None:
        self._address = address
        self._redis = redis
        self._print = partial(print, flush=True)

    def ready(self, engine: Engine) -> None:
        model = f"model {engine.version} on {engine.route.info.provider}"
        self._print(f"PRORec Serve is ready at {self._address}: {model}, Redis {self._redis}")

    def idle(self) -> None:
        hint = "publish one (python -m service publish DIR) and activate it (python -m service activate VERSION)"
        self._print(f"PRORec Serve waits at {self._address}: no model is active in Redis {self._redis}; {hint}")


def prune(cache: Path, keep: Iterable[str | None]) -> None:
    """Removes fetched versions nobody needs; a process that has one mapped keeps its pages."""
    for manifest in cache.glob(f"[!.]*/{MANIFEST}"):
        if manifest.parent.name not in set(keep):
            shutil.rmtree(manifest.parent, ignore_errors=True)
