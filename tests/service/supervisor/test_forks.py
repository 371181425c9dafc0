"""Programs started by forking: their streams, environment, ends, and the death of the process that forks them."""

import asyncio
import gc
import os
import signal
import sys
import tempfile
from collections.abc import AsyncIterator
from pathlib import Path

import psutil
import pytest

from service.supervisor.engine import Engine, Program
from service.supervisor.forks import Forks
from service.supervisor.processes import METRICS_FOLDER, Child
from tests.marks import needs_forks

from .waiting import until

pytestmark = [pytest.mark.anyio, needs_forks]

LITTLE = "tests.service.supervisor.little_engine"
ODD = "tests.service.supervisor.odd_program"


class Scene:
    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.environment = os.environ | {METRICS_FOLDER: str(folder), "MARK": "theirs"}
        self.forks = Forks(self.environment, [LITTLE])
        self.lines: list[str] = []

    async def run(self, *arguments: str) -> Child:
        return await self.forks.spawn([ODD, *arguments], on_line=self.lines.append)

    async def asked_asleep(self) -> "tuple[psutil.Process, asyncio.Task[Child]]":
        """The fork server, stopped, and a start that it has been asked for."""
        server = await self.server()
        server.suspend()
        start = asyncio.create_task(self.run("wait"))
        await asyncio.sleep(0.05)
        return server, start

    async def server(self) -> psutil.Process:
        child = await self.run("wait")
        server = psutil.Process(child.pid).parent()
        child.kill_now()
        await child.wait()
        assert server is not None
        return server


@pytest.fixture
async def scene() -> AsyncIterator[Scene]:
    with tempfile.TemporaryDirectory(prefix="t-") as folder:
        scene, before = Scene(Path(folder)), psutil.Process().children()
        yield scene
        await scene.forks.stop()
        assert set(psutil.Process().children()) <= set(before)


async def test_a_fork_has_arguments_environment_modules_and_a_session_of_its_own(scene: Scene) -> None:
    child = await scene.run("tell", "MARK")
    assert await child.wait() == 0
    assert scene.lines == ["tell MARK", "theirs", "imported", f"session {child.pid}"]


async def test_a_fork_is_shown_as_what_it_runs(scene: Scene) -> None:
    child = await scene.run("wait")
    await until(lambda: psutil.Process(child.pid).cmdline()[0].endswith(f" -m {ODD} wait"))
    child.kill_now()
    await child.wait()


@pytest.mark.parametrize(
    ("how", "code", "reason"),
    [
        ("leave", 3, "it ended with exit code 3"),
        ("sentence", 1, "no such thing"),
        ("raise", 1, "ValueError: wrong"),
        ("return", 0, "it ended with exit code 0"),
    ],
)
async def test_a_fork_ends_as_a_python_process_does(scene: Scene, how: str, code: int, reason: str) -> None:
    child = await scene.run(how)
    assert await child.wait() == code
    assert child.last_sentence(code) == reason


async def test_a_signal_ends_a_fork_and_is_its_exit_code(scene: Scene) -> None:
    child = await scene.run("wait")
    child.signal(signal.SIGKILL)
    assert await child.wait() == -signal.SIGKILL
    child.signal(signal.SIGKILL)  # nothing happens to one that has ended


async def test_a_fork_reads_the_end_of_stdin_when_its_parent_has_gone(scene: Scene) -> None:
    code = (
        "import asyncio, os\n"
        "from service.supervisor.forks import Forks\n"
        f"forks = Forks(os.environ | {{'{METRICS_FOLDER}': '{scene.folder}'}}, [])\n"
        "async def main():\n"
        f"    print((await forks.spawn(['{ODD}', 'wait'], on_line=print)).pid, flush=True)\n"
        "    os._exit(0)\n"
        "asyncio.run(main())\n"
    )
    parent = await asyncio.create_subprocess_exec(sys.executable, "-c", code, stdout=asyncio.subprocess.PIPE)
    out, _ = await parent.communicate()
    await until(lambda: not psutil.pid_exists(int(out)))


async def test_many_forks_at_once_get_streams_of_their_own(scene: Scene) -> None:
    lines: dict[int, list[str]] = {number: [] for number in range(8)}

    async def one(number: int) -> int:
        child = await scene.forks.spawn([ODD, "tell", str(number)], on_line=lines[number].append)
        return await child.wait()

    assert await asyncio.gather(*map(one, lines)) == [0] * 8
    assert [told[0] for told in lines.values()] == [f"tell {number}" for number in lines]
    open_files = _open_files()
    assert await asyncio.gather(*map(one, lines)) == [0] * 8
    await until(lambda: _open_files() <= open_files)


@pytest.mark.parametrize("anyio_backend", [("asyncio", {"use_uvloop": uvloop}) for uvloop in (False, True)])
async def test_what_has_ended_leaves_nothing_open_until_garbage_is_collected(scene: Scene) -> None:
    await (await scene.run("leave")).wait()
    gc.collect()
    gc.disable()
    try:
        open_files = _open_files()
        for _ in range(4):
            await (await scene.run("leave")).wait()
        await until(lambda: _open_files() <= open_files)
    finally:
        gc.enable()


async def test_children_outlive_the_fork_server_and_their_end_is_still_seen(scene: Scene) -> None:
    engine = await Engine.start(Path("v1"), scene.folder / "socket", scene.forks.spawn, Program(LITTLE))
    server = psutil.Process(engine.child.pid).parent()
    assert server is not None
    server.kill()
    await until(lambda: not psutil.pid_exists(server.pid))
    assert not await engine.child.wait_at_most(0.1)
    later = await scene.run("leave")  # by a new one
    assert await later.wait() == 3
    engine.child.signal(signal.SIGKILL)
    assert await engine.child.wait() == 1
    await engine.drain(5.0)


async def test_a_fork_server_that_dies_while_it_is_asked_fails_that_start_alone(scene: Scene) -> None:
    server, start = await scene.asked_asleep()
    server.kill()
    with pytest.raises(OSError, match="died"):
        await start
    assert await (await scene.run("leave")).wait() == 3


async def test_a_fork_server_that_cannot_be_started_is_tried_again(scene: Scene) -> None:
    scene.environment["MARK"] = "no\0 environment"
    with pytest.raises(ValueError, match="null byte"):
        await scene.run("leave")
    scene.environment["MARK"] = "ours"
    assert await (await scene.run("leave")).wait() == 3


async def test_a_start_that_is_cancelled_leaves_no_process(scene: Scene) -> None:
    server, start = await scene.asked_asleep()
    start.cancel()
    await asyncio.sleep(0.05)
    server.resume()
    with pytest.raises(asyncio.CancelledError):
        await start
    await until(lambda: not server.children())


def _open_files() -> int:
    return len(list(Path("/proc/self/fd").iterdir()))
