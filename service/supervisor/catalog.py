"""The changed catalog in the supervisor's memory, and everybody who has to hear of it."""

import asyncio
from dataclasses import dataclass

from service.catalog.records import ItemRecord
from service.store import CatalogSighting

from .board import Board
from .codes import Codes
from .engine import Engine, StartError
from .feed import Feed, Reached
from .last import LastCatalog
from .tasks import Tasks, tell_fault


class ChangedCatalog:
    """Every record that Redis holds, so that an engine can be told all of them at any moment."""

    def __init__(self) -> None:
        self.revision = 0
        self.era = ""
        self.records: dict[str, ItemRecord] = {}
        self.known = asyncio.Event()  # it has been read once, or Redis is away and it is what was served last

    @property
    def reached(self) -> Reached:
        return Reached(self.revision, self.era)

    def take(self, sighting: CatalogSighting) -> list[ItemRecord]:
        """What an engine that knew everything before has to be told now."""
        found = {record.item_id: record for record in sighting.records}
        news = [record for record in sighting.records if self.records.get(record.item_id) != record]
        if sighting.whole:
            gone = [record for item_id, record in self.records.items() if item_id not in found]
            # An empty record: whoever was trained with the item has it as trained, and for others it is gone.
            news += [ItemRecord(record.item_id, sighting.revision) for record in gone]
            self.records = found
        else:
            self.records.update(found)
        self.revision, self.era = sighting.revision, sighting.era
        self.known.set()
        return news


@dataclass
class Listener:
    """One engine or reader that hears of the catalog."""

    feed: Feed
    task: "asyncio.Task[None]"
    serves: bool  # queries of users


class Feeds:
    """One queue for each engine and reader of this replica."""

    def __init__(self, codes: Codes, board: Board) -> None:
        self.catalog = ChangedCatalog()
        self._codes = codes
        self._board = board
        self._listeners: dict[Engine, Listener] = {}
        self._tasks = Tasks()
        self._owed = Reached()  # the most that was ever told of this era, whatever has become of who obeyed it

    def take(self, sighting: CatalogSighting) -> None:
        """Queues what has changed for everybody. Where Redis has lost the catalog, what is known of it stays."""
        lost = sighting.revision < 1 <= self.catalog.revision
        self._board.catalog_lost(lost)
        if lost:
            return
        anew = self.catalog.era not in ("", sighting.era)
        news = self.catalog.take(sighting)
        if anew:  # Redis has lost what it decided, and is told what holds here
            added = {one.item_id for one in self.catalog.records.values() if one.item is not None and not one.removed}
            self._tasks.run(self._codes.renew(added))
        for listener in self._listeners.values():
            listener.feed.put(self.catalog.reached, news)
        self.tell()

    def as_last(self) -> LastCatalog:
        """What another process needs to go on from here."""
        catalog = self.catalog
        return LastCatalog(catalog.revision, catalog.era, list(catalog.records.values()), self._codes.all_known())

    def recall(self, last: LastCatalog) -> None:
        """Goes on from where an earlier process was, before Redis has said anything."""
        self._codes.recall(last.codes)
        self.take(CatalogSighting(last.revision, last.records, whole=True, era=last.era))

    async def join(self, engine: Engine, *, places: bool, serves: bool) -> None:
        """Returns when everything that Redis holds, or held last, counts there; raises StartError where it ends before.

        A catalog of millions takes its time to be read, and an engine that did not wait would recommend hidden items.
        """
        await self.catalog.known.wait()
        feed = Feed(engine, self._codes, self.tell, lambda: self._owed, places=places)
        feed.put(self.catalog.reached, self.catalog.records.values())
        listener = Listener(feed, asyncio.create_task(feed.run()), serves)
        self._listeners[engine] = listener
        listener.task.add_done_callback(lambda task: self._leave(engine, task))
        caught_up = asyncio.create_task(feed.caught_up.wait())
        try:
            await asyncio.wait([caught_up, listener.task], return_when=asyncio.FIRST_COMPLETED)
        finally:
            caught_up.cancel()
        if not feed.caught_up.is_set():
            raise StartError(engine.child.last_sentence(await engine.child.wait()))

    def tell(self) -> None:
        """Shows what the engines have applied by now."""
        serving = [one.feed for one in self._listeners.values() if one.serves and one.feed.caught_up.is_set()]
        mine = [feed.unplaced for feed in serving if feed.peer.version == self._board.serving_version]
        era = self.catalog.era
        revisions = [feed.applied.revision if feed.applied.era == era else 0 for feed in serving]
        reached = Reached(min(revisions, default=0), era)
        if reached.era != self._owed.era or reached.obeys(self._owed):
            self._owed = reached
        self._board.catalog(reached.revision, era, mine[-1] if mine else {})

    def _leave(self, engine: Engine, task: "asyncio.Task[None]") -> None:
        self._listeners.pop(engine, None)
        if not task.cancelled() and task.exception():
            tell_fault(task)
            engine.child.kill_now()  # it would hear of no change any more; its successor does
        if all(other.version != engine.version for other in self._listeners):
            self._codes.forget(engine.version)
        self.tell()
