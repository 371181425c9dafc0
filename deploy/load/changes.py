"""Scenarios that change the service while it is loaded, and put back what was there: other versions, a canary.

What `rollback` goes back to they do not put back: the versions that were activated are remembered as the latest ones.
"""

import asyncio
import math
import time
from collections import Counter
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Annotated, Any, ClassVar, Final

import typer

from ..errors import MisuseError
from .admin import put_back
from .arrivals import Segment
from .lanes import Lanes
from .scenarios import Rate, Seconds
from .session import Session
from .traffic import Load

_USERS: Final = 20_000  # of each client, so that most are asked for once
_SIGMAS: Final = 4.0
_EVERY_WORKER_S: Final = 1.0


@dataclass
class Swap:
    """Versions activated in turn; every answer must be the one that the version it names gave before the load.

    A canary pauses meanwhile. Afterwards the version that was active is so again, with canary and shadow; but rollback
    then knows the activated versions as the latest ones.
    """

    versions: Annotated[str, typer.Option(help="Two or more versions, comma-separated.")]
    rate: Rate = 50.0
    seconds: Seconds = 30.0
    every_s: Annotated[float, typer.Option(min=0.1, help="From one activation to the next.")] = 3.0
    changes_service: ClassVar[bool] = True
    needs_service: ClassVar[bool] = True
    _took_s: list[float] = field(default_factory=list, init=False)

    async def run(self, session: Session) -> None:
        names = [name for name in self.versions.split(",") if name]
        if len(names) < 2:
            raise MisuseError("--versions must name two or more, such as --versions shop-1,shop-2")
        async with _served_again(session):
            load = Load([session.options.address], session.bodies)
            lanes = Lanes()
            for name in names:
                await session.admin.activate(name)
                await load.learn(lanes, name)
            await lanes.aclose()
            async with session.clients(known=load.known.by_version) as clients:
                segments = [Segment(self.rate, self.seconds)]
                await session.load_beside(clients, segments, self._swap(session, names))

    def judge(self, session: Session) -> list[str]:
        session.findings.update({"swaps": len(self._took_s), "slowest_swap_s": max(self._took_s, default=None)})
        missing = [] if self._took_s else ["no version was activated"]
        return [*missing, *session.breaches(session.record.whole())]

    async def _swap(self, session: Session, names: list[str]) -> None:
        """Until it is cancelled."""
        await asyncio.sleep(session.options.warm_up_s)
        while True:
            name = names[len(self._took_s) % len(names)]
            await asyncio.sleep(self.every_s)
            session.record.mark(f"activate {name}")
            begun = time.monotonic()
            await session.admin.activate(name)
            self._took_s.append(round(time.monotonic() - begun, 3))


@dataclass
class Canary:
    """A canary with one share of the users after the other; which share it answered is measured.

    Every user must stay with one version while the share stays, and every answer must be its version's.
    """

    version: Annotated[str, typer.Option(help="The canary; another version is active.")]
    percents: Annotated[str, typer.Option(help="Its shares, comma-separated, in percent.")] = "5,25,50"
    rate: Rate = 50.0
    seconds: Annotated[float, typer.Option(min=1, help="For each share.")] = 20.0
    changes_service: ClassVar[bool] = True
    needs_service: ClassVar[bool] = True
    _shares: list[dict[str, float]] = field(default_factory=list, init=False)

    async def run(self, session: Session) -> None:
        percents = _numbers(self.percents)
        active, before = await session.admin.serving(), await session.admin.traffic()
        if active == self.version:
            raise MisuseError(f"{self.version} is the active version; a canary is another one")
        try:
            await self._set(session, before, percents[0])
            known = await _pinned_answers(session, [str(active), self.version])
            for percent in percents:
                await self._set(session, before, percent)
                # New clients for each share: a user may change over when the share does.
                async with session.clients(known=known, users=_USERS) as clients:
                    await session.load(clients, [Segment(self.rate, self.seconds, f"{percent:g} %")])
                self._shares.append(_share(session.record.part(f"{percent:g} %").versions, self.version, percent))
        finally:
            await put_back(session.admin.set_traffic(before))

    def judge(self, session: Session) -> list[str]:
        session.findings["shares"] = self._shares
        wrong = [
            f"{share['measured_percent']} % of the answers were the canary's, not {share['percent']:g} ± "
            f"{share['tolerance_percent']} %"
            for share in self._shares
            if abs(share["measured_percent"] - share["percent"]) > share["tolerance_percent"]
        ]
        missing = [] if self._shares else ["no share was measured"]
        return [*missing, *wrong, *session.breaches(session.record.whole())]

    async def _set(self, session: Session, before: dict[str, Any], percent: float) -> None:
        session.record.mark(f"canary {percent:g} %")
        await session.admin.set_traffic({**before, "canary": {"version": self.version, "percent": percent}})
        await asyncio.sleep(_EVERY_WORKER_S)


def _share(versions: Counter[str], canary: str, percent: float) -> dict[str, float]:
    """Users are drawn evenly and hashed, so the share may miss by four standard deviations, and one answer."""
    answers = versions.total()
    deviation = math.sqrt(percent * (100 - percent) / max(1, answers))
    return {
        "percent": percent,
        "measured_percent": round(100 * versions[canary] / max(1, answers), 2),
        "tolerance_percent": round(_SIGMAS * deviation + 100 / max(1, answers), 2),
        "answers": answers,
    }


async def _pinned_answers(session: Session, versions: list[str]) -> dict[tuple[str, int], list[list[str]]]:
    """What each of these loaded versions answers to the session's bodies."""
    known: dict[tuple[str, int], list[list[str]]] = {}
    lanes = Lanes()
    for version in versions:
        load = Load([session.options.address], [{**body, "model_version": version} for body in session.bodies])
        await load.learn(lanes, version)
        known |= load.known.by_version
    await lanes.aclose()
    return known


@asynccontextmanager
async def _served_again(session: Session) -> AsyncIterator[None]:
    """Without a canary, which would answer some of the requests; after the block all serve that did before it."""
    admin = session.admin
    before, traffic = await admin.serving(), await admin.traffic()

    async def serve_again() -> None:
        if before is not None and await admin.serving() != before:
            await admin.activate(before)
        if await admin.traffic() != traffic:
            await admin.set_traffic(traffic)

    try:
        if traffic["canary"]:
            await admin.set_traffic({**traffic, "canary": None})
        yield
    finally:
        await put_back(serve_again())


def _numbers(words: str) -> list[float]:
    try:
        found = [float(word) for word in words.split(",") if word]
    except ValueError:
        found = []
    if not found or not all(0 < number <= 100 for number in found):
        raise MisuseError(f"--percents {words}: numbers above 0 and up to 100 are wanted, separated by commas")
    return found
