"""The reader follows what serves, is replaced when it dies, and lives until nobody asks it any more."""

import os
import signal
import tempfile
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from service.supervisor.engine import Engine, Program, StartError
from service.supervisor.forks import starter
from service.supervisor.processes import METRICS_FOLDER
from service.supervisor.reading import Reading

from .waiting import until

pytestmark = pytest.mark.anyio


class Scene:
    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.readers: list[Engine] = []
        self.broken: set[str] = set()
        self.reading = Reading(self.start, 5.0)

    async def start(self, folder: Path) -> Engine:
        if folder.name in self.broken:
            raise StartError("broken")
        socket = self.folder / f"{len(self.readers)}.sock"
        spawn = starter(os.environ | {METRICS_FOLDER: str(self.folder)}, None)
        reader = await Engine.start(folder, socket, spawn, Program("tests.service.supervisor.little_engine"))
        self.readers.append(reader)
        return reader

    @property
    def version(self) -> str | None:
        return self.reading.route.info.model_version if self.reading.route else None


@pytest.fixture
async def scene() -> AsyncIterator[Scene]:
    with tempfile.TemporaryDirectory(prefix="t-") as folder:
        scene = Scene(Path(folder))
        yield scene
        await scene.reading.stop()
        assert not [reader for reader in scene.readers if reader.child.running]


async def test_the_reader_before_answers_until_the_next_is_ready_and_nobody_asks_it(scene: Scene) -> None:
    scene.reading.follow(Path("v1"))
    await until(lambda: scene.version == "v1")
    changes: list[str | None] = []
    scene.reading.on_change = lambda: changes.append(scene.version)
    scene.reading.follow(Path("v2"))
    await until(lambda: scene.version == "v2")
    assert changes == ["v2"]
    assert scene.readers[0].child.running
    scene.reading.dismiss()
    await until(lambda: not scene.readers[0].child.running)
    assert scene.readers[1].child.running


async def test_the_reader_of_a_version_whose_engine_stays_does_too_and_is_used_again(scene: Scene) -> None:
    for version in ("v1", "v2", "v1", "v3"):
        scene.reading.follow(Path(version))
        await until(lambda wanted=version: scene.version == wanted)  # type: ignore[misc]
        scene.reading.dismiss({"v1", version})
    first, second, third = scene.readers  # the way back to v1 started none
    await until(lambda: not second.child.running)
    assert first.child.running
    assert third.child.running
    scene.reading.dismiss({"v3"})
    await until(lambda: not first.child.running)
    assert third.child.running


async def test_a_change_that_is_taken_back_at_once_starts_no_second_reader(scene: Scene) -> None:
    scene.reading.follow(Path("v1"))
    await until(lambda: scene.version == "v1")
    started: list[int] = []
    scene.reading.on_change = lambda: started.append(len(scene.readers))
    scene.reading.follow(Path("v2"))
    scene.reading.follow(Path("v1"))
    await until(lambda: bool(started))
    assert started == [1]
    scene.readers[0].child.signal(signal.SIGKILL)  # which whoever keeps it now hears of
    await until(lambda: len(scene.readers) == 2 and scene.version == "v1")
    assert [reader.version for reader in scene.readers] == ["v1", "v1"]
    assert scene.readers[1].child.running


async def test_a_dead_reader_has_a_successor(scene: Scene) -> None:
    scene.reading.follow(Path("v1"))
    await until(lambda: scene.version == "v1")
    scene.readers[0].child.signal(signal.SIGKILL)
    await until(lambda: len(scene.readers) == 2 and scene.version == "v1")


async def test_a_reader_that_cannot_start_leaves_the_one_before(scene: Scene) -> None:
    scene.reading.follow(Path("v1"))
    await until(lambda: scene.version == "v1")
    scene.broken.add("v2")
    scene.reading.follow(Path("v2"))
    await until(lambda: scene.version == "v1")
    scene.broken.clear()
    await until(lambda: scene.version == "v2")
