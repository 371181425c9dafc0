"""One engine process: its stages, its pulse, its end."""

import os
import signal
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from service.api.engine_link import EngineLost
from service.frames import EngineInfo, Ping
from service.supervisor.engine import Engine, Program, Pulse, StartError
from service.supervisor.forks import starter
from service.supervisor.processes import METRICS_FOLDER, Spawn

from .waiting import until

pytestmark = pytest.mark.anyio

LITTLE = Program("tests.service.supervisor.little_engine")
ODD = Program("tests.service.supervisor.odd_program")


@pytest.fixture
def folder() -> Iterator[Path]:
    """A short one: the paths of sockets end at about a hundred bytes."""
    with tempfile.TemporaryDirectory(prefix="t-") as name:
        yield Path(name)


def spawn(folder: Path) -> Spawn:
    return starter(os.environ | {METRICS_FOLDER: str(folder)}, None)


async def test_an_engine_tells_how_far_it_is_and_who_it_is(folder: Path) -> None:
    stages: list[str] = []
    engine = await Engine.start(Path("v7"), folder / "socket", spawn(folder), LITTLE, stages.append)
    assert stages == ["verifying", "loading", "warming", "ready"]
    assert engine.version == "v7"
    reply = await engine.request(Ping(0))
    assert isinstance(reply, EngineInfo)
    assert reply.pid == engine.child.pid
    await engine.drain(5.0)
    assert not engine.child.running
    with pytest.raises(EngineLost):
        await engine.request(Ping(0))


async def test_an_engine_that_no_longer_answers_is_killed_and_leaves_no_socket(folder: Path) -> None:
    program = Program(LITTLE.name, pulse=Pulse(every_s=0.05, hung_s=0.3))
    engine = await Engine.start(Path("v1"), folder / "socket", spawn(folder), program)
    engine.child.signal(signal.SIGSTOP)
    assert await engine.child.wait() == -signal.SIGKILL
    await until(lambda: not (folder / "socket").exists())


async def test_an_engine_that_was_stopped_for_a_moment_lives_on(folder: Path) -> None:
    program = Program(LITTLE.name, pulse=Pulse(every_s=0.02, hung_s=60.0))
    engine = await Engine.start(Path("v1"), folder / "socket", spawn(folder), program)
    engine.child.signal(signal.SIGSTOP)
    assert not await engine.child.wait_at_most(0.3)
    engine.child.signal(signal.SIGCONT)
    assert isinstance(await engine.request(Ping(0)), EngineInfo)
    await engine.drain(5.0)


@pytest.mark.parametrize(("how", "final"), [("not yet", False), ("never", True)])
async def test_why_an_engine_cannot_start_is_left_to_whoever_asked_for_it(
    how: str, final: bool, folder: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(StartError, match=r"^the engine could not start: so it is$") as failure:
        await Engine.start(Path(how), folder / "socket", spawn(folder), ODD)
    assert failure.value.final is final
    assert capfd.readouterr().err == "something odd\n"
