"""Open-loop load, as benchmarks and the load test apply it.

Requests start at Poisson times whatever the answers do, and latency counts from the intended start, so a stalled
service cannot hide. Where the answers of a version are known beforehand, every answer must be the one that the version
it names gives.
"""

import asyncio
import collections
import itertools
import time
from collections.abc import Coroutine, Sequence
from dataclasses import dataclass, field
from typing import Any, Final, TypeVar

import httpx
import numpy as np

_SATURATION_S: Final = 6.0
_CLOSED_LOOP: Final = 24

T = TypeVar("T")


@dataclass
class Phase:
    """What came of a phase; latencies in seconds from the intended start."""

    latency_s: list[float] = field(default_factory=list)
    versions: collections.Counter[str] = field(default_factory=collections.Counter)
    failures: collections.Counter[str] = field(default_factory=collections.Counter)
    mixed: int = 0

    def percentile_ms(self, percent: float) -> float:
        """NaN where nothing was answered."""
        return round(1e3 * float(np.percentile(self.latency_s or [float("nan")], percent)), 2)

    @property
    def flawless(self) -> bool:
        return bool(self.latency_s) and not self.failures and not self.mixed

    def summary(self) -> dict[str, Any]:
        return {
            "answered": len(self.latency_s),
            "failed": dict(self.failures),
            "mixed": self.mixed,
            "by_version": dict(self.versions),
            "p50_ms": self.percentile_ms(50),
            "p99_ms": self.percentile_ms(99),
            "max_ms": self.percentile_ms(100),
        }


class Load:
    """Real answers of each version to the same histories, and clients that hold every later answer against them."""

    def __init__(self, addresses: Sequence[str], bodies: Sequence[dict[str, Any]], seed: int = 0) -> None:
        self._addresses = itertools.cycle(addresses)
        self._bodies = bodies
        self._expected: dict[str, list[list[str]]] = {}
        self._rng = np.random.default_rng(seed)

    async def learn(self, client: httpx.AsyncClient, version: str) -> None:
        """Keeps what `version`, which serves now, answers."""
        self._expected[version] = [items_of((await self._post(client, body)).json()) for body in self._bodies]

    async def saturate(self, client: httpx.AsyncClient) -> float:
        """Answers a second at a fixed number of requests in flight."""
        done, until = 0, time.monotonic() + _SATURATION_S

        async def keep_asking() -> None:
            nonlocal done
            while time.monotonic() < until:
                await self._post(client, self._bodies[done % len(self._bodies)])
                done += 1

        await asyncio.gather(*(keep_asking() for _ in range(_CLOSED_LOOP)))
        return done / _SATURATION_S

    async def arrive(self, client: httpx.AsyncClient, rate: float, phase: Phase, stop: asyncio.Event) -> None:
        """Poisson arrivals until `stop`, then waits for what is in flight."""
        begun, moment, tasks = time.monotonic(), 0.0, set[asyncio.Task[None]]()
        for number in itertools.count():
            moment += float(self._rng.exponential(1 / rate))
            await asyncio.sleep(max(0.0, begun + moment - time.monotonic()))
            if stop.is_set():
                break
            task = asyncio.create_task(self._ask(client, number % len(self._bodies), begun + moment, phase))
            tasks.add(task)
            task.add_done_callback(tasks.discard)
        await asyncio.gather(*tasks)

    async def during(self, client: httpx.AsyncClient, rate: float, phase: Phase, work: Coroutine[Any, Any, T]) -> T:
        """Loads the service while `work` goes on, and returns what it returns."""
        stop = asyncio.Event()
        arrivals = asyncio.create_task(self.arrive(client, rate, phase, stop))
        try:
            return await work
        finally:
            stop.set()
            await arrivals

    async def _ask(self, client: httpx.AsyncClient, number: int, intended: float, phase: Phase) -> None:
        try:
            response = await self._post(client, self._bodies[number])
        except httpx.HTTPError as error:
            phase.failures[type(error).__name__] += 1
            return
        if response.status_code != 200:
            phase.failures[str(response.status_code)] += 1
            return
        phase.latency_s.append(time.monotonic() - intended)
        answer = response.json()
        version = answer["model_version"]
        phase.versions[version] += 1
        if expected := self._expected.get(version):
            phase.mixed += items_of(answer) != expected[number]

    async def _post(self, client: httpx.AsyncClient, body: dict[str, Any]) -> httpx.Response:
        return await client.post(f"{next(self._addresses)}/recommend", json=body)


def items_of(answer: dict[str, Any]) -> list[str]:
    """Item ids of an answer, best first."""
    return [item["item_id"] for item in answer["items"]]
