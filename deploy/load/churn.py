"""The catalog changes while the service is loaded, and nothing comes back after it was acknowledged to be gone."""

import asyncio
import bisect
import itertools
import time
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Annotated, ClassVar, Final

import typer

from ..errors import MisuseError, RefusedError
from .admin import Admin, put_back
from .arrivals import Segment
from .checks import Sighting
from .lanes import Lanes
from .scenarios import Rate, Seconds
from .session import Session
from .traffic import Load

RETURNED: Final = "an item that was gone came back"
STALE: Final = "the catalog was older than an acknowledged one"
_ADDED: Final = "load-test-{}"
_ADDED_AT_ONCE: Final = 4
_LARGEST_S: Final = float("inf")


@dataclass
class Ledger:
    """When which items were gone, and so which answers are wrong. Times are of the monotonic clock, in seconds."""

    wrong: Counter[str]
    gone: dict[str, list[tuple[float, float]]] = field(default_factory=dict)  # item → (acknowledged, taken back)
    acknowledged: list[tuple[float, int]] = field(default_factory=list)  # (when, catalog revision), both growing
    seen: Counter[str] = field(default_factory=Counter)  # answers with each watched item

    def took(self, item: str, revision: int) -> None:
        """The service has just said that `item` is gone."""
        self.obeys(revision)
        self.gone.setdefault(item, []).append((time.monotonic(), _LARGEST_S))

    def gives_back(self, item: str) -> None:
        """The service is about to be told that `item` may come back."""
        if spans := self.gone.get(item):
            spans[-1] = (spans[-1][0], time.monotonic())

    def obeys(self, revision: int) -> None:
        """The service has just said that its answers obey that revision."""
        self.acknowledged.append((time.monotonic(), revision))

    def judge(self, sightings: Sequence[Sighting]) -> None:
        """An answer is wrong only if an item was gone from before it was asked until after it had come."""
        for sighting in sightings:
            self.seen.update(sighting.items)
            self.wrong[RETURNED] += any(self._was_gone(item, sighting) for item in sighting.items)
            self.wrong[STALE] += sighting.revision < self._revision_at(sighting.sent)

    def _was_gone(self, item: str, sighting: Sighting) -> bool:
        spans = self.gone.get(item, [])
        return any(begins <= sighting.sent and sighting.received <= ends for begins, ends in spans)

    def _revision_at(self, moment: float) -> int:
        place = bisect.bisect_left(self.acknowledged, (moment, 0))
        return self.acknowledged[place - 1][1] if place else 0


@dataclass
class Churn:
    """Items are hidden, shown, added and removed meanwhile; what is gone must not come back.

    The items are the most recommended ones, so that they would come back. The service must be one replica: only the one
    that is asked says when it obeys. At the end all of them are available again and added ones removed; but `GET
    /catalog/changes` lists each of them from then on, as available or removed, since the service forgets no change.
    """

    rate: Rate = 50.0
    seconds: Seconds = 30.0
    every_ms: Annotated[float, typer.Option(min=1, help="Pause between two changes.")] = 100.0
    items: Annotated[int, typer.Option(min=1, help="How many are hidden and shown in turn.")] = 20
    add: Annotated[bool, typer.Option(help="Add and remove new items too; the model must take them as text.")] = True
    changes_service: ClassVar[bool] = True
    needs_service: ClassVar[bool] = True
    _changes: int = field(default=0, init=False)
    _ledger: Ledger | None = field(default=None, init=False)
    _hidden: set[str] = field(default_factory=set, init=False)  # perhaps: a change that is cancelled may have been made
    _added: set[str] = field(default_factory=set, init=False)

    async def run(self, session: Session) -> None:
        lanes = Lanes()
        answers = await Load([session.options.address], session.bodies).answers(lanes)
        await lanes.aclose()
        counts = Counter(item for answer in answers for item in answer.item_ids())
        popular = [item for item, _ in counts.most_common(self.items)]
        if not popular:
            raise MisuseError("the service recommends nothing, so nothing can be hidden")
        added = [_ADDED.format(number) for number in range(_ADDED_AT_ONCE)] if self.add else []
        ledger = self._ledger = Ledger(session.record.part("load").wrong)
        session.record.judge = ledger.judge
        try:
            async with session.clients(watched=frozenset([*popular, *added])) as clients:
                work = self._change(session, ledger, popular, added)
                await session.load_beside(clients, [Segment(self.rate, self.seconds)], work)
        finally:
            await put_back(self._restore(session.admin))

    def judge(self, session: Session) -> list[str]:
        seen = self._ledger.seen.total() if self._ledger else 0
        session.findings.update({"changes": self._changes, "sightings_of_watched_items": seen})
        session.record.part("load").wrong += Counter()  # without those that are zero
        idle = [] if self._changes else ["nothing was changed"]
        blind = [] if seen else ["none of the watched items was recommended at all, so nothing is shown"]
        return [*idle, *blind, *session.breaches(session.record.whole())]

    async def _change(self, session: Session, ledger: Ledger, popular: list[str], added: list[str]) -> None:
        """Until it is cancelled: an item goes and comes back, then a new one comes and goes."""
        model = await session.admin.metadata(popular[0])
        for number in itertools.count():
            item = popular[number % len(popular)]
            await self._done(session, f"hide {item}")
            self._hidden.add(item)
            ledger.took(item, await session.admin.set_available(item, False))
            await asyncio.sleep(self.every_ms / 1000)
            await self._done(session, f"show {item}")
            ledger.gives_back(item)
            ledger.obeys(await session.admin.set_available(item, True))
            self._hidden.discard(item)
            if added:
                await self._come_and_go(session, ledger, model | {"item_id": added[number % len(added)]})
            await asyncio.sleep(self.every_ms / 1000)

    async def _come_and_go(self, session: Session, ledger: Ledger, item: dict[str, object]) -> None:
        name = str(item["item_id"])
        await self._done(session, f"add {name}")
        ledger.gives_back(name)
        self._added.add(name)
        try:
            ledger.obeys(await session.admin.add(item))
        except RefusedError:
            self._added.discard(name)
            raise
        await asyncio.sleep(self.every_ms / 1000)
        await self._done(session, f"remove {name}")
        ledger.took(name, await session.admin.remove([name]))
        self._added.discard(name)

    async def _done(self, session: Session, text: str) -> None:
        self._changes += 1
        session.record.mark(text)

    async def _restore(self, admin: Admin) -> None:
        try:
            for item in self._hidden:
                await admin.set_available(item, True)
        finally:
            if self._added:
                await admin.remove(sorted(self._added))
