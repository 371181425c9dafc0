"""Which engine a query of this worker goes to, and how it survives that engine's end.

An engine may die at any moment. A query that was in flight on it goes to its successor once, as it was; then once more,
alone in its batch; then it fails, so that one poisoned query cannot take engine after engine.
"""

import asyncio
import itertools
import logging
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from functools import partial
from typing import Final

import msgspec

from service import metrics
from service.errors import DeadlineExceeded, EngineCrashed, NotLoaded, NotReady, Overloaded, ServiceError
from service.frames import Answer, EngineInfo, Query

from .canary import chosen
from .control import Route, Routes, Status
from .engine_link import EngineClient, EngineLost
from .shadow import Shadow
from .tally import Tally

_ALONE: Final = 3  # the attempt that runs in a batch of its own, and the last
_RECONNECT_S: Final = (0.1, 0.2, 0.5, 1.0)  # pauses; an engine that ended has closed its socket by the first
_FAIR_S: Final = 0.1  # whoever waits less than that says nothing about a version by giving up

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Served:
    """An answer and the engine that gave it."""

    answer: Answer
    info: EngineInfo


@dataclass
class Errand:
    """What a query asks for, and which version it was sent to last."""

    version: str | None  # asked for by name
    sticky_key: bytes | None  # may be a canary's; None: never
    beams: int  # that it needs at least
    fair: bool = True  # it waits long enough for its deadline to be the version's fault
    sent_to: str | None = None
    warning: str | None = None


class Router:
    """Where the supervisor says that queries go, and the connections to these engines."""

    def __init__(self, in_flight_limit: int) -> None:
        self.status = Status()
        self.routes = Routes(0, None)
        self.tally = Tally()
        self.request_retry: Callable[[], None] = lambda: None  # asks the supervisor to try again at once what failed
        self._clients: dict[str, EngineClient] = {}  # socket →
        self._shadow = Shadow()
        self._switched = asyncio.Event()
        self._alone = asyncio.Lock()
        self._reconnecting: set[asyncio.Task[None]] = set()
        self._ids = itertools.count(1)
        self._in_flight = 0
        self._in_flight_limit = in_flight_limit

    @property
    def route(self) -> Route | None:
        """Of the active version."""
        return self.routes.route

    @property
    def ready(self) -> bool:
        """Whether the active version's engine takes queries now."""
        return self._client(self.routes.route) is not None

    @property
    def info(self) -> EngineInfo | None:
        """Of the engine that serves, or of the one whose successor is awaited; None: nothing is loaded."""
        return self.route.info if self.route else None

    @property
    def reader(self) -> EngineClient | None:
        """Answers what is asked about items, of the version that serves or for a moment of the one before."""
        return self._client(self.routes.reader)

    def info_of(self, version: str) -> EngineInfo | None:
        """Of a version that may be asked for by name; None where this replica has it not ready."""
        route = self._named(version)
        return route.info if route else None

    @property
    def engines(self) -> list[Route]:
        """Of every version that this replica has ready, one each: the one that serves first, the shadow last."""
        routes = (self.routes.route, *self.routes.others, self.routes.shadow)
        known = {route.info.model_version: route for route in reversed(routes) if route}
        return list(reversed(known.values()))

    def engine_of(self, version: str) -> EngineInfo | None:
        """Of a version that this replica has ready, also as a shadow."""
        return next((route.info for route in self.engines if route.info.model_version == version), None)

    def next_id(self) -> int:
        """A query id that this worker has not used."""
        return next(self._ids)

    async def switch(self, routes: Routes) -> None:
        """From the return of this call on, no new query goes to an engine that `routes` does not name."""
        wanted = [route for route in (routes.route, *routes.others, routes.shadow, routes.reader) if route]
        found = await asyncio.gather(*(self._connected(route) for route in wanted))
        clients = {route.socket: client for route, client in zip(wanted, found, strict=True) if client}
        old, self._clients, self.routes = self._clients, clients, routes
        self._shadow.engine = self._client(routes.shadow)
        self._go_on()
        for route, client in zip(wanted, found, strict=True):
            if client is None:
                self._keep_trying(route, None)
        for socket, client in old.items():
            if clients.get(socket) is not client:
                client.retire()

    async def close(self) -> None:
        """Lets go of the engines; queries in flight fail."""
        for task in self._reconnecting:
            task.cancel()
        await self._shadow.close()
        clients, self._clients, self.routes = self._clients, {}, Routes(self.routes.epoch, None)
        await asyncio.gather(*(client.close() for client in clients.values()))

    async def ask(self, query: Query, *, version: str | None = None, sticky_key: bytes | None = None) -> Served:
        """The answer of the version asked for by name, of the canary for its share of the users, or of the active one.

        `sticky_key` is what `canary.sticky_key` makes of a request; None keeps it from the canary. Raises Overloaded,
        NotLoaded, NotReady, DeadlineExceeded, EngineCrashed, or what the engine's `Failure` stands for.
        """
        fair = query.deadline - time.monotonic() >= _FAIR_S
        errand = Errand(version, sticky_key, max(query.k, query.beam_width or 0), fair)
        with self._permit():
            served = await self._counted(query, errand)
        if errand.sent_to == self._active_version and version is None:
            self._shadow.offer(query, served.answer, idle=not self._in_flight)
        return served

    async def _counted(self, query: Query, errand: Errand) -> Served:
        try:
            served = await self._in_time(query, errand)
        except ServiceError as error:
            if errand.sent_to:
                self.tally.failed(errand.sent_to, error, blamed=errand.fair or not isinstance(error, DeadlineExceeded))
            raise
        self.tally.answered(served.info.model_version, exhausted=served.answer.exhausted)
        return served

    async def _in_time(self, query: Query, errand: Errand) -> Served:
        left_s = query.deadline - time.monotonic()
        try:
            async with asyncio.timeout(left_s):
                return await self._attempts(query, errand)
        except TimeoutError:
            raise DeadlineExceeded(self._why_late(left_s)) from None

    @contextmanager
    def _permit(self) -> Iterator[None]:
        if self._in_flight >= self._in_flight_limit:
            raise Overloaded(f"{self._in_flight} requests are in flight already")
        self._in_flight += 1
        try:
            yield
        finally:
            self._in_flight -= 1

    async def _attempts(self, query: Query, errand: Errand) -> Served:
        for attempt in range(1, _ALONE + 1):
            try:
                return await (self._ask_alone(query, errand) if attempt == _ALONE else self._ask(query, errand))
            except EngineLost:
                metrics.ENGINE_LOSSES.labels(attempt).inc()
        raise EngineCrashed("the engine ended three times while it worked on this request, the last time on it alone")

    async def _ask_alone(self, query: Query, errand: Errand) -> Served:
        """One suspect at a time: the others have not been sent when this one takes the engine with it."""
        async with self._alone:
            return await self._ask(msgspec.structs.replace(query, alone=True), errand)

    async def _ask(self, query: Query, errand: Errand) -> Served:
        engine = await self._engine(errand)
        answer = await engine.ask(query)
        if errand.warning:
            answer.warnings = [*answer.warnings, errand.warning]
        return Served(answer, engine.info)

    async def _engine(self, errand: Errand) -> EngineClient:
        """The engine, or its successor as soon as there is one; NotReady or NotLoaded when none is to be expected."""
        while True:
            if engine := self._by_name(errand) or self._canary(errand) or self._client(self.routes.route):
                errand.sent_to = engine.info.model_version
                return engine
            if self.routes.route is None:
                raise NotReady("no model is loaded; /health/ready says why")
            errand.sent_to = self._active_version
            await self._switched.wait()

    def _by_name(self, errand: Errand) -> EngineClient | None:
        """None where none is asked for by name, or the active one, whose successor is worth waiting for."""
        if errand.version is None or errand.version == self._active_version:
            return None
        route = self._named(errand.version)
        if engine := self._client(route):
            return engine
        model = self.status.model(errand.version)
        if route or (model and model.state == "restarting"):
            raise NotReady(f"the engine of model {errand.version} has ended; its successor is starting")
        raise NotLoaded(
            f"no engine of model {errand.version} is loaded here; POST /models/VERSION/load loads what is published"
        )

    def _canary(self, errand: Errand) -> EngineClient | None:
        canary = self.routes.canary
        errand.warning = None
        if canary is None or errand.version is not None or errand.sticky_key is None:
            return None
        if not chosen(errand.sticky_key, self.routes.canary_percent):
            return None
        engine = self._client(self._named(canary))
        if engine is not None and errand.beams <= engine.info.beam_widths[-1]:
            return engine
        why = "is not ready here" if engine is None else "has no beam that wide"
        errand.warning = f"the canary {canary} {why}; the active model answered instead"
        return None

    def _named(self, version: str) -> Route | None:
        routes = (self.routes.route, *self.routes.others)
        return next((route for route in routes if route and route.info.model_version == version), None)

    @property
    def _active_version(self) -> str | None:
        return self.info.model_version if self.info else None

    def _client(self, route: Route | None) -> EngineClient | None:
        """The connection, if it takes queries."""
        client = self._clients.get(route.socket) if route else None
        return None if client is None or client.gone else client

    async def _connected(self, route: Route) -> EngineClient | None:
        """None where it cannot be reached now: it died meanwhile, and its successor comes, or it is tried again."""
        if client := self._client(route):
            return client
        try:
            return await self._connect(route)
        except OSError as error:
            logger.warning("the engine of %s cannot be reached: %s", route.info.model_version, error)
            return None

    async def _connect(self, route: Route) -> EngineClient:
        client = await EngineClient.connect(route)
        client.on_lost = partial(self._lost, route, client)
        return client

    def _lost(self, route: Route, client: EngineClient) -> None:
        if self._clients.get(route.socket) is client:
            self._keep_trying(route, client)

    def _keep_trying(self, route: Route, lost: EngineClient | None) -> None:
        task = asyncio.create_task(self._reconnect(route, lost))
        self._reconnecting.add(task)
        task.add_done_callback(self._reconnecting.discard)

    async def _reconnect(self, route: Route, lost: EngineClient | None) -> None:
        """As long as queries are to go there: of a connection that failed, and not its engine, the supervisor knows
        nothing."""
        for pause_s in itertools.chain(_RECONNECT_S, itertools.repeat(_RECONNECT_S[-1])):
            await asyncio.sleep(pause_s)
            if not self._awaits(route, lost):
                return
            with suppress(OSError):
                client = await self._connect(route)
                break
        if not self._awaits(route, lost):
            client.retire()
            return
        logger.warning("connected to the engine of %s again", route.info.model_version)
        self._clients[route.socket] = client
        self._shadow.engine = self._client(self.routes.shadow)
        self._go_on()

    def _awaits(self, route: Route, lost: EngineClient | None) -> bool:
        """Whether queries would go there, if there were a connection in the place of the lost one."""
        routes = (self.routes.route, *self.routes.others, self.routes.shadow, self.routes.reader)
        named = any(one and one.socket == route.socket for one in routes)
        return named and self._clients.get(route.socket) is lost

    def _go_on(self) -> None:
        """Wakes what waits for an engine."""
        self._switched.set()
        self._switched = asyncio.Event()

    def _why_late(self, left_s: float) -> str:
        if self.ready:
            return f"no answer came within the {max(left_s, 0) * 1000:.0f} ms that timeout_ms left for it"
        return "the engine ended, and no successor was ready before the deadline"
