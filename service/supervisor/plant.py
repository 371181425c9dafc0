"""Makes what a replica runs: folders from Redis or from the cache, engines and readers from folders."""

import itertools
import logging
import shutil
from collections.abc import Callable, Collection, Iterable
from pathlib import Path
from typing import Final

from models.artifact import MANIFEST, Artifact
from models.errors import ArtifactError
from service.cores import listed
from service.errors import ServiceError, StoreUnavailable, UnknownVersion
from service.store import Store
from service.store.fetch import remove_remains

from .aside import aside
from .catalog import Feeds
from .engine import Engine, Program
from .life import Pace
from .processes import Spawn

_READER: Final = Program("service.reader")

logger = logging.getLogger(__name__)


class Plant:
    """What it starts has applied the whole catalog when it is handed over."""

    def __init__(
        self,
        store: Store,
        cache: Path,
        sockets: Path,
        spawn: Spawn,
        feeds: Feeds,
        in_use: Callable[[], Iterable[str]],
        engine_cores: Collection[int] | None = None,
    ) -> None:
        """`sockets` is a short, private folder; `in_use` names the versions whose files must stay in the cache;
        engines run on `engine_cores` (None: where this process does)."""
        options = ("--cores", listed(engine_cores)) if engine_cores else ()
        self._engine = {
            pace: Program("service.engine", (*options, *flags))
            for pace, flags in ((Pace.AT_ONCE, ["--at-once"]), (Pace.QUIETLY, []), (Pace.BACKGROUND, ["--background"]))
        }
        self._store = store
        self._cache = cache
        self._sockets = (sockets / f"engine-{number}" for number in itertools.count(1))
        self._spawn = spawn
        self._feeds = feeds
        self._in_use = in_use

    async def fetch(self, version: str) -> Path:
        """The artifact's folder, every byte checked; what an earlier fetch left there whole where Redis is away, or has
        lost the version."""
        await self._make_room(version)  # before too: the disk may be full of what nobody needs any more
        try:
            artifact = await aside(self._store.fetch, version, self._cache)
        except (StoreUnavailable, UnknownVersion) as missing:
            artifact = await aside(_cached, self._cache / version, missing)
        await self._make_room(version)
        return artifact.folder

    async def _make_room(self, version: str) -> None:
        await aside(prune, self._cache, {version, *self._in_use()})

    async def engine(self, folder: Path, pace: Pace, on_stage: Callable[[str], None]) -> Engine:
        """Raises StartError, OSError."""
        return await self._start(folder, self._engine[pace], on_stage, serves=pace is not Pace.BACKGROUND)

    async def reader(self, folder: Path) -> Engine:
        """Raises StartError, OSError."""
        return await self._start(folder, _READER, lambda _: None, serves=False)

    async def _start(self, folder: Path, program: Program, on_stage: Callable[[str], None], *, serves: bool) -> Engine:
        engine = await Engine.start(folder, next(self._sockets), self._spawn, program, on_stage)
        try:
            await self._feeds.join(engine, places=program is not _READER, serves=serves)
        except BaseException:
            await engine.child.kill()
            raise
        return engine


def _cached(folder: Path, missing: ServiceError) -> Artifact:
    try:
        artifact = Artifact.open(folder)
    except (OSError, ArtifactError):
        raise missing from None
    logger.warning("%s; model %s is taken from the cache", missing, folder.name)
    return artifact


def prune(cache: Path, keep: Iterable[str]) -> None:
    """Removes fetched versions nobody needs, and what broken fetches of them left.

    A process that has a version mapped keeps its pages.
    """
    kept = set(keep)
    remove_remains(cache, kept)
    for manifest in cache.glob(f"[!.]*/{MANIFEST}"):
        if manifest.parent.name not in kept:
            shutil.rmtree(manifest.parent, ignore_errors=True)
