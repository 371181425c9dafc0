"""`Store`: everything the rest of the service asks of Redis."""

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Self

from models.artifact import Artifact, Manifest

from ..embedded_redis import embedded_redis
from ..settings import Settings
from .activation import ANY, Activation, Unconditional
from .connection import Connection
from .fetch import Fetcher
from .keys import Keys
from .publish import Progress, Publisher
from .records import Active, VersionInfo, read_published
from .watch import Sighting, Watcher

__all__ = ["ANY", "Store", "open_store"]


@dataclass(frozen=True)
class Store:
    """Published versions of one namespace, and which is active. Thread-safe; any method may raise StoreUnavailable."""

    redis: Connection
    keys: Keys

    @classmethod
    def connect(cls, url: str, namespace: str) -> Self:
        """Does not wait for Redis: the first command does. Raises SettingsError for a URL that cannot be meant.

        URLs: redis://, rediss://, unix://, redis+sentinel://HOST:PORT,HOST:PORT/SERVICE[/DB] and
        redis+cluster://HOST:PORT,…; the last two with rediss+ for TLS.
        """
        return cls(Connection(url), Keys(namespace))

    @property
    def url(self) -> str:
        """With its password; `str(store.redis)` is for logs."""
        return self.redis.url

    def close(self) -> None:
        self.redis.close()

    def ping(self) -> None:
        """Raises StoreUnavailable."""
        self.redis.ask(lambda client: client.ping())

    def publish(self, artifact: Artifact, progress: Progress | None = None) -> int:
        """Writes an artifact; bytes of its files. `progress` is told (bytes done, bytes in all).

        The version exists when this returns and not before. The same bytes may be published again: they are checked,
        and sent again where Redis holds them damaged. Raises VersionExists for other bytes under that name,
        EvictionPolicy, and BadArtifact for odd names or files that differ from their manifest.
        """
        return self._publisher.publish(artifact, progress)

    def versions(self) -> list[VersionInfo]:
        """All published versions, last published first."""
        raw = self.redis.ask(lambda client: client.hvals(self.keys.versions))
        infos = [read_published(one).info() for one in raw]
        return sorted(infos, key=lambda info: (info.published_at, info.version), reverse=True)

    def manifest(self, version: str) -> Manifest:
        """Raises UnknownVersion, StoreCorrupt, or BadArtifact for one written by another schema version."""
        return Fetcher(self.redis, self.keys).record(version).manifest

    def fetch(self, version: str, cache: Path) -> Artifact:
        """The version in `cache`/VERSION, every byte checked; at once where an earlier fetch left it there whole.

        Raises UnknownVersion, StoreCorrupt, and StoreError where the folder cannot be written.
        """
        return Fetcher(self.redis, self.keys).fetch(version, cache)

    def active(self) -> Active | None:
        """None where nothing is active."""
        return Activation(self.redis, self.keys).read()

    def activate(self, version: str, if_active: str | Unconditional | None = ANY) -> Active:
        """Makes a published version the active one; no change where it is already.

        With `if_active`, only if that version (None: no version) is active. Raises LostRace, UnknownVersion.
        """
        return Activation(self.redis, self.keys).change(version, if_active)

    def rollback(self, if_active: str | Unconditional | None = ANY) -> Active:
        """Goes back to the newest earlier version that is still published. Raises NoPrevious, LostRace."""
        return Activation(self.redis, self.keys).change(None, if_active)

    def delete(self, version: str) -> None:
        """Raises UnknownVersion, VersionActive."""
        self._publisher.delete(version)

    def watch(self, stop: threading.Event, poll_s: float) -> Iterator[Sighting]:
        """What is active now, and then every change: an `Active`, `Lost`, `StoreDown`, or None if none ever was.

        Blocks between changes, for a thread of its own; ends within a moment after `stop` is set. Never raises.
        After an outage what is active is told again, changed or not.
        """
        watcher = Watcher(self.redis, Activation(self.redis, self.keys), self.keys.changes, poll_s)
        return watcher.sightings(stop)

    @property
    def _publisher(self) -> Publisher:
        return Publisher(self.redis, self.keys)


@contextmanager
def open_store(settings: Settings) -> Iterator[Store]:
    """The store of these settings, with an embedded Redis where they name none; it answers.

    Raises StoreUnavailable, SettingsError.
    """
    if settings.redis_url is not None:
        with _connected(settings.redis_url, settings.namespace) as store:
            yield store
    else:
        with embedded_redis(settings.data_dir) as url, _connected(url, settings.namespace) as store:
            yield store


@contextmanager
def _connected(url: str, namespace: str) -> Iterator[Store]:
    store = Store.connect(url, namespace)
    try:
        store.ping()
        yield store
    finally:
        store.close()
