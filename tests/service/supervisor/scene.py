"""A fleet with real processes that do nothing, so that a test can order every step."""

import asyncio
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

from service.api.control import Route, Routes
from service.frames import EngineInfo
from service.store import Deployment
from service.supervisor.board import Board
from service.supervisor.engine import Engine, StartError
from service.supervisor.fleet import Fleet
from service.supervisor.life import Pace
from service.supervisor.processes import METRICS_FOLDER, Child


class Scene:
    """A fleet, the routes it announced, the engines it started, and gates that hold it up."""

    def __init__(self, folder: Path, warm_previous: int = 0) -> None:
        self.folder = folder
        self.board = Board()
        self.routes: list[str | None] = []
        self.latest = Routes(0, None)
        self.starting: list[str] = []
        self.started: list[Engine] = []
        self.paces: list[tuple[str, Pace]] = []
        self.broken: dict[str, str] = {}  # version → why it cannot start
        self.final: set[str] = set()  # versions of `broken` for which another attempt cannot help
        self.faults: dict[str, Exception] = {}  # version → what its start meets that nobody foresaw
        self.fetched: list[str] = []
        self.start_gate = asyncio.Event()
        self.route_gate = asyncio.Event()
        self.held: dict[str, asyncio.Event] = {}  # version → a gate of its own
        self.start_gate.set()
        self.route_gate.set()
        self.memory_percent = 50.0
        self.epoch = 0
        self.fleet = Fleet(
            self.board,
            self,
            fetch=self.fetch,
            start=self.start,
            drain_timeout_s=5.0,
            warm_previous=warm_previous,
            warm_memory_percent=20.0,
            memory=lambda: self.memory_percent,
        )

    def want(self, version: str | None, **fields: Any) -> None:
        """Redis says so."""
        self.epoch += 1
        self.fleet.follow(Deployment(version, self.epoch, **fields))

    async def fetch(self, version: str) -> Path:
        self.fetched.append(version)
        return self.folder / version

    async def start(self, folder: Path, pace: Pace, on_stage: Callable[[str], None]) -> Engine:
        name = f"{folder.name} in the background" if pace is Pace.BACKGROUND else folder.name
        self.starting.append(name)
        self.paces.append((folder.name, pace))
        try:
            return await self.start_whole(folder, on_stage)
        finally:
            self.starting.remove(name)

    async def start_whole(self, folder: Path, on_stage: Callable[[str], None]) -> Engine:
        on_stage("loading")
        await self.start_gate.wait()
        await self.held.get(folder.name, self.start_gate).wait()
        if folder.name in self.faults:
            raise self.faults[folder.name]
        if folder.name in self.broken:
            raise StartError(self.broken[folder.name], final=folder.name in self.final)
        child = await Child.spawn(["tests.service.supervisor.sleeper"], os.environ | {METRICS_FOLDER: str(self.folder)})
        info = EngineInfo(0, folder.name, "CPUExecutionProvider", 1, [1], 1, 1, 0.0, 0.0, child.pid)
        engine = Engine(child, Route(str(self.folder / f"{child.pid}.sock"), info), folder)
        self.started.append(engine)
        return engine

    async def route(self, routes: Routes) -> None:
        version = routes.route.info.model_version if routes.route else None
        if routes.route != self.latest.route or not self.routes:
            self.routes.append(version)
        self.latest = routes
        await self.route_gate.wait()

    async def until(self, condition: Callable[[], bool]) -> None:
        async with asyncio.timeout(60):
            while not condition():
                await asyncio.sleep(0.01)

    async def serves(self, version: str) -> None:
        await self.until(lambda: self.board.serving_version == version)

    def state(self, version: str) -> str | None:
        return next((model.state for model in self.board.status.models if model.version == version), None)

    @property
    def running(self) -> list[str]:
        return [engine.version for engine in self.started if engine.child.running]

    async def close(self) -> None:
        self.start_gate.set()
        self.route_gate.set()
        await self.fleet.stop()
        assert not self.running
