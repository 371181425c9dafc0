"""One client's open-loop load, as benchmarks and the client processes of the load test apply it.

Requests start at Poisson times whatever the answers do, and latency counts from the intended start, so a stalled
service cannot hide. Where the answers of a version are known beforehand, every answer must be the one that the version
it names gives.
"""

import asyncio
import functools
import itertools
import time
from collections.abc import Callable, Coroutine, Iterable, Sequence
from typing import Any, Final, Protocol, TypeVar

import httpx
import msgspec
import numpy as np

from ..errors import BenchError
from .arrivals import Segment, arrivals
from .checks import Answer, Asked, Check, KnownAnswers
from .phase import Phase

_CLOSED_LOOP: Final = 24
_LEARNERS: Final = 8
_MOST_IN_FLIGHT: Final = 2000
_PATIENCE_S: Final = 30.0
_TIMEOUT: Final = {"timeout": httpx.Timeout(_PATIENCE_S).as_dict()}

OVERRUN: Final = "not sent: too many in flight"
UNREADABLE: Final = "not a recommendation"

T = TypeVar("T")
PhaseAt = Callable[[float, str], Phase]  # (seconds after the beginning, part) → where to count that now


class Sender(Protocol):
    """httpx.AsyncClient, or Lanes, which do without what only browsers need."""

    async def send(self, request: httpx.Request) -> httpx.Response: ...


class Load:
    """Asks a service for recommendations and looks at every answer."""

    def __init__(
        self,
        addresses: Sequence[str],
        bodies: Sequence[dict[str, Any]],
        seed: int = 0,
        *,
        checks: Iterable[Check] = (),
        users: int = 0,  # ask for that many users in turn, drawn evenly; 0: for nobody in particular
    ) -> None:
        self.known = KnownAnswers()
        self._checks: list[Check] = [self.known, *checks]
        self._urls = itertools.cycle([httpx.URL(f"{address}/recommend") for address in addresses])
        self._bodies = [msgspec.json.encode(body) for body in bodies]
        self._rng = np.random.default_rng(seed)
        self._seed, self._users = seed, users
        self._answers = msgspec.json.Decoder(Answer)

    async def learn(self, client: Sender, version: str) -> None:
        """Keeps what `version` answers; it serves now, or the bodies name it. Raises httpx.HTTPError, BenchError."""
        answers = await self.answers(client)
        if answers[0].model_version != version:
            raise BenchError(f"{answers[0].model_version} answered where {version} should have")
        self.known.keep(answers)

    async def answers(self, client: Sender) -> list[Answer]:
        """To each body once, in their order."""
        turns = asyncio.Semaphore(_LEARNERS)

        async def one(body: bytes) -> Answer:
            async with turns:
                return self._answers.decode(await self._good(client, body))

        return await asyncio.gather(*map(one, self._bodies))

    async def saturate(self, client: Sender, seconds: float = 6.0) -> float:
        """Answers a second within `seconds`, a fixed number in flight. Raises httpx.HTTPError, BenchError."""
        asked, done, until = itertools.count(), 0, time.monotonic() + seconds

        async def keep_asking() -> None:
            nonlocal done
            while time.monotonic() < until:
                await self._good(client, self._bodies[next(asked) % len(self._bodies)])
                done += time.monotonic() < until

        await asyncio.gather(*(keep_asking() for _ in range(_CLOSED_LOOP)))
        return done / seconds

    async def arrive(
        self, client: Sender, segments: Sequence[Segment], begins: float, phase_at: PhaseAt, stop: asyncio.Event
    ) -> None:
        """Poisson arrivals until the segments or `stop` end them, then waits for what is in flight."""
        tasks = set[asyncio.Task[None]]()
        for moment, part in arrivals(self._rng, segments):
            await _sleep_until(begins + moment, stop)
            if stop.is_set():
                break
            # Asked again for each count: what was counted may have been handed over before an answer comes.
            phase = functools.partial(phase_at, moment, part)
            if len(tasks) >= _MOST_IN_FLIGHT:
                phase().failures[OVERRUN] += 1
                continue
            task = asyncio.create_task(self._ask(client, begins + moment, phase))
            tasks.add(task)
            task.add_done_callback(tasks.discard)
        await asyncio.gather(*tasks)

    async def during(self, client: Sender, rate: float, phase: Phase, work: Coroutine[Any, Any, T]) -> T:
        """Loads the service while `work` goes on, and returns what it returns."""
        stop, forever = asyncio.Event(), [Segment(rate, float("inf"))]
        arriving = asyncio.create_task(
            self.arrive(client, forever, time.monotonic(), lambda _moment, _part: phase, stop)
        )
        try:
            return await work
        finally:
            stop.set()
            await arriving

    async def _good(self, client: Sender, body: bytes) -> bytes:
        """The content of an answer that is a recommendation; raises httpx.HTTPError, BenchError."""
        response = await client.send(self._request(body))
        if response.status_code != 200:
            raise BenchError(f"{response.status_code} instead of a recommendation: {response.text[:300]}")
        return response.content

    async def _ask(self, client: Sender, intended: float, phase: Callable[[], Phase]) -> None:
        number, user = self._draw()
        body = self._bodies[number] if user is None else _with_user(self._bodies[number], user)
        sent = time.monotonic()
        phase().late.add(sent - intended)
        try:
            response = await client.send(self._request(body))
        except httpx.HTTPError as error:
            phase().failures[type(error).__name__] += 1
            return
        received = time.monotonic()
        if response.status_code != 200:
            phase().failures[str(response.status_code)] += 1
            return
        self._read(response, Asked(number, user, sent, received), received - intended, phase())

    def _read(self, response: httpx.Response, asked: Asked, latency_s: float, phase: Phase) -> None:
        try:
            answer = self._answers.decode(response.content)
        except msgspec.DecodeError:
            phase.failures[UNREADABLE] += 1
            return
        phase.latency.add(latency_s)
        phase.versions[answer.model_version] += 1
        for check in self._checks:
            if wrong := check(asked, answer):
                phase.wrong[wrong] += 1

    def _draw(self) -> tuple[int, str | None]:
        """A body and a user."""
        number = int(self._rng.integers(len(self._bodies)))
        return number, f"load-{self._seed}-{self._rng.integers(self._users)}" if self._users else None

    def _request(self, body: bytes) -> httpx.Request:
        headers = {"content-type": "application/json"}
        return httpx.Request("POST", next(self._urls), headers=headers, content=body, extensions=_TIMEOUT)


async def _sleep_until(moment: float, stop: asyncio.Event) -> None:
    """Until that time of the monotonic clock, or until `stop` is set."""
    wait_s = moment - time.monotonic()
    if wait_s > 1.0:  # rarely: waiting for an event costs more than sleeping
        try:
            await asyncio.wait_for(stop.wait(), wait_s)
        except TimeoutError:
            return
    else:
        await asyncio.sleep(max(0.0, wait_s))


def _with_user(body: bytes, user: str) -> bytes:
    """`body` is a JSON object that has fields and no user."""
    return b'{"user_id":"%s",' % user.encode() + body[1:]
