"""`Store`: everything the rest of the service asks of Redis."""

import threading
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Self

from models.artifact import Artifact

from ..catalog.records import ItemChange, ItemRecord
from ..embedded_redis import embedded_redis
from ..errors import VersionActive
from ..settings import Settings
from .catalog import CatalogChanged, CatalogPage, CatalogRecords, CatalogSighting
from .connection import Connection
from .deployment import ANY, Canary, Deployment, Deployments, Event, Unchanged, Unconditional
from .fetch import Fetcher
from .keys import Keys
from .placements import Placements
from .publish import Progress, Publisher
from .records import VersionInfo, read_published
from .replicas import ReplicaReport, Replicas
from .watch import Sighting, Watcher


@dataclass(frozen=True)
class Store:
    """Everything of one namespace: versions, the deployment, the catalog, replicas.

    Thread-safe; any method may raise StoreUnavailable.
    """

    redis: Connection
    keys: Keys

    @classmethod
    def connect(cls, url: str, namespace: str) -> Self:
        """Does not wait for Redis: the first command does. Raises SettingsError for a URL that cannot be meant.

        URLs: redis://, rediss://, unix://, redis+sentinel://HOST:PORT,HOST:PORT/SERVICE[/DB] and
        redis+cluster://HOST:PORT,…; the last two with rediss+ for TLS.
        """
        return cls(Connection(url), Keys(namespace))

    def close(self) -> None:
        self.redis.close()

    def ping(self) -> None:
        """Raises StoreUnavailable."""
        self.redis.ask(lambda client: client.ping())

    def publish(self, artifact: Artifact, progress: Progress | None = None) -> int:
        """Writes an artifact; bytes of its files. `progress` is told (bytes done, bytes in all).

        The version exists when this returns and not before. The same bytes may be published again: they are checked,
        and sent again where Redis holds them damaged. Raises VersionExists where other bytes have that name, or had it
        before they were deleted, EvictionPolicy, StoreReadOnly where Redis has too little memory left, and BadArtifact
        for odd names or files that differ from their manifest.
        """
        return self._publisher.publish(artifact, progress)

    def versions(self) -> list[VersionInfo]:
        """All published versions, last published first."""
        raw = self.redis.ask(lambda client: client.hvals(self.keys.versions))
        infos = [read_published(one) for one in raw]
        return sorted(infos, key=lambda info: (info.published_at, info.version), reverse=True)

    def fetch(self, version: str, cache: Path) -> Artifact:
        """The version in `cache`/VERSION, every byte checked; at once where an earlier fetch left it there whole.

        Goes on where an earlier attempt was broken off. Raises UnknownVersion, StoreCorrupt, BadArtifact for one
        written by another schema version, and StoreError where the folder cannot be written or its disk has too little
        left.
        """
        return Fetcher(self.redis, self.keys).fetch(version, cache)

    def deployment(self) -> Deployment | None:
        """None where nothing was ever activated or loaded. Raises StoreCorrupt."""
        return self._deployments.read()

    def activate(
        self, version: str, if_active: str | Unconditional | None = ANY, reason: str = "activate"
    ) -> Deployment:
        """Makes a published version the active one; no change where it is already. It ceases to be canary or shadow.

        With `if_active`, only if that version (None: no version) is active. Raises LostRace, UnknownVersion.
        """
        return self._deployments.activate(version, if_active, reason)

    def rollback(
        self,
        steps: int = 1,
        to: str | None = None,
        if_active: str | Unconditional | None = ANY,
        reason: str = "rollback",
    ) -> Deployment:
        """Goes `steps` back among the earlier versions that are still published, or back to the one named `to`.

        What it passes over is no way back any more. No change where `to` is active. Raises NoPrevious, LostRace,
        UnknownVersion, BadRequest.
        """
        return self._deployments.rollback(steps, to, if_active, reason)

    def pin(self, version: str) -> Deployment:
        """Has every replica load a published version, and keep it loaded. Raises UnknownVersion."""
        return self._deployments.pin(version)

    def unpin(self, version: str) -> Deployment:
        """Ends that; no change where it was not pinned. Raises UnknownVersion."""
        return self._deployments.unpin(version)

    def set_traffic(self, canary: Canary | Unchanged | None, shadow: str | Unchanged | None) -> Deployment:
        """Gives versions a share of the users, or a copy of the queries; None ends that, KEEP leaves it as it is.

        Raises UnknownVersion; BadRequest for a percent outside 0 < p <= 100, for the active version, for one version in
        both roles, and where nothing is active.
        """
        return self._deployments.set_traffic(canary, shadow)

    def events(self, limit: int = 100) -> list[Event]:
        """The newest changes of the deployment, newest first; Redis keeps about a thousand. Raises StoreCorrupt."""
        return self._deployments.events(limit)

    def delete(self, version: str) -> None:
        """Removes a version, and a day later its placements. Raises UnknownVersion, VersionActive, VersionPinned.

        Its name belongs to its bytes for good: they may be published again, and no others.
        A version that still answers somewhere, while the one after it loads, counts as active.
        """
        active = self.deployment()
        answering = [report.replica for report in self.replicas() if report.serving == version]
        if answering and (active is None or active.version != version):
            raise VersionActive(f"version {version} still answers on replica {answering[0]}")
        self._publisher.delete(version)

    def report(self, report: ReplicaReport) -> None:
        """What a replica says of itself, to be repeated every second; its `at` is set by Redis."""
        Replicas(self.redis, self.keys).report(report)

    def leave(self, replica: str) -> None:
        """The last word of a replica that ends; without it the others see it for some seconds more."""
        Replicas(self.redis, self.keys).leave(replica)

    def replicas(self) -> list[ReplicaReport]:
        """Those that reported within the last 5 s, by address."""
        return Replicas(self.redis, self.keys).live()

    def wait_until_active(self, version: str, timeout_s: float) -> list[ReplicaReport]:
        """Blocks until every live replica that is not draining serves `version`, and returns them.

        A replica counts once it follows the deployment of the moment this was called. Raises NotFollowed, at the end of
        the time, after 2 s without any live replica, or as soon as another version becomes the active one.
        """
        return Replicas(self.redis, self.keys).wait_until_active(version, timeout_s)

    def catalog_revision(self) -> int:
        """Grows by one with every change of the catalog; 0: there was none."""
        return self._catalog.state()[0]

    def catalog_records(self, item_ids: Iterable[str]) -> dict[str, ItemRecord]:
        """Records of those items that differ from the trained catalogs. Raises StoreCorrupt."""
        return self._catalog.records(item_ids)

    def change_items(self, changes: Sequence[ItemChange], *, holds: bool = False) -> CatalogChanged:
        """Merges every change into its item's record: all of them in one revision, or none.

        Others may change other items meanwhile; where they change the same ones, it merges again. A change that
        changes nothing makes no revision. Raises BadItem for values that cannot be kept, and CatalogLost where Redis
        has no catalog and the caller `holds` one, or a replica reports that it does: all would obey this change and no
        earlier one.
        """
        return self._catalog.change(changes, holds=holds)

    def restore_catalog(self, records: Sequence[ItemRecord], revision: int) -> bool:
        """Puts back what Redis has lost, as it was at `revision`, in an era of its own; all in one step.

        False, and nothing is changed, where Redis has a catalog. `revision` is at least 1.
        """
        return self._catalog.restore(records, revision)

    def restore_deployment(self, deployment: Deployment) -> bool:
        """Puts a deployment back as it is given. False, and nothing is changed, where Redis has one."""
        return self._deployments.restore(deployment)

    def catalog_changes(self, since: int, era: str | None = None) -> CatalogSighting:
        """What has changed after revision `since`, all as of one moment.

        It is `whole` where `since` is 0, where more than 10,000 items have changed, and where Redis has lost the
        catalog in between: its revision is lower than `since`, or its era is not the `era` given. A whole one read
        while others change the catalog may hold records newer than its revision; the next call tells them again.
        """
        return self._catalog.since(since, era)

    def catalog_page(self, since: int, limit: int) -> CatalogPage:
        """About `limit` items that have changed after revision `since`, those first that have not changed for longest.

        An item that changes while others go from page to page is told on a later one again. Raises StoreCorrupt.
        """
        return self._catalog.page(since, limit)

    def placements(self, version: str, item_ids: Iterable[str] | None = None) -> dict[str, tuple[int, ...]]:
        """Codes of added items (None: of all) in a version; an item without one is absent.

        A version that was never published has none. Raises UnknownVersion for a name that no version can have.
        """
        return Placements(self.redis, self.keys).read(version, item_ids)

    def place(self, version: str, codes: Mapping[str, tuple[int, ...]]) -> dict[str, tuple[int, ...]]:
        """Gives items their codes in a version, and returns the codes they have.

        An item keeps the first code it was given, and a code belongs to one item for good; an item whose proposed code
        is taken is absent: propose another. Raises UnknownVersion.
        """
        return Placements(self.redis, self.keys).place(version, codes)

    def watch(self, stop: threading.Event, poll_s: float) -> Iterator[Sighting]:
        """The deployment (None: there never was one), the whole catalog, and then every change of either.

        Blocks between changes, for a thread of its own; ends within a moment after `stop` is set. Never raises.
        `StoreDown` is told once an outage, and after it the deployment again, changed or not. After a flush: `Lost`,
        and once a catalog of revision 0 without records; what is known of it stays until it is put back or begun anew,
        and what Redis holds then is told as whole.
        """
        return Watcher(self.redis, self.keys, poll_s).sightings(stop)

    @property
    def _deployments(self) -> Deployments:
        return Deployments(self.redis, self.keys)

    @property
    def _catalog(self) -> CatalogRecords:
        return CatalogRecords(self.redis, self.keys)

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
