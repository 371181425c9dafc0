import asyncio
import json
import math
import os
import shutil
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Awaitable, Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import msgspec
import pytest
from prometheus_client import CollectorRegistry
from prometheus_client.multiprocess import MultiProcessCollector

from models.artifact import GOLDEN, Artifact
from service.engine.__main__ import start_pace
from service.frames import Answer, Cancel, EngineInfo, Failure, Ping, Query, Reply, Request, pack, read_frame

START_S = 60.0


def start(artifact: Path, socket: Path, *flags: str, **environment: str) -> "subprocess.Popen[str]":
    command = [sys.executable, "-m", "service.engine", "--artifact", str(artifact), "--socket", str(socket), *flags]
    return subprocess.Popen(
        command, stdin=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env={**os.environ, **environment}
    )


@contextmanager
def running(artifact: Artifact, socket: Path, **environment: str) -> Iterator["subprocess.Popen[str]"]:
    """An engine on its way to readiness; killed at the end where it has not ended itself."""
    with start(artifact.folder, socket, **environment) as process:
        try:
            yield process
        finally:
            process.kill()


class Client:
    """A connection to an engine."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.reader, self.writer = reader, writer
        self._encoder = msgspec.msgpack.Encoder()
        self._decoder = msgspec.msgpack.Decoder(Reply)

    @classmethod
    async def connect(cls, path: Path) -> "Client":
        """Waits until the engine listens."""
        give_up = time.monotonic() + START_S
        while True:
            try:
                return cls(*await asyncio.open_unix_connection(path))
            except (FileNotFoundError, ConnectionRefusedError):
                if time.monotonic() > give_up:
                    raise
                await asyncio.sleep(0.02)

    def send(self, *messages: Request) -> None:
        self.writer.write(b"".join(pack(message, self._encoder) for message in messages))

    async def receive(self) -> Reply | None:
        body = await read_frame(self.reader)
        return None if body is None else self._decoder.decode(body)

    async def ask(self, *queries: Query) -> dict[int, Answer | Failure]:
        """Sends the queries at once; their replies by query id, each exactly once."""
        self.send(*queries)
        return await self.replies(len(queries))

    async def replies(self, count: int) -> dict[int, Answer | Failure]:
        replies = [await self.receive() for _ in range(count)]
        by_id = {reply.query_id: reply for reply in replies if isinstance(reply, Answer | Failure)}
        assert len(by_id) == count
        return by_id

    async def close(self) -> None:
        self.writer.close()
        await self.writer.wait_closed()


def query(number: int, history: Sequence[str] = ("item-1",), k: int = 4, deadline: float = math.inf) -> Query:
    return Query(number, list(history), k, deadline)


def talk(path: Path, story: Callable[[Client], Awaitable[None]]) -> None:
    async def connected() -> None:
        client = await Client.connect(path)
        try:
            await story(client)
        finally:
            await client.close()

    asyncio.run(connected())


def stderr_of_failed_start(artifact: Path, socket: Path) -> str:
    """The last line an engine that could not start leaves."""
    with start(artifact, socket) as process:
        _, errors = process.communicate(timeout=START_S)
    assert process.returncode == 1
    assert not socket.exists()
    return errors.rstrip().splitlines()[-1]


def test_in_8_bits_it_says_so_and_what_share_of_the_golden_items_it_finds(
    encoder_decoder_artifact: Artifact, socket_path: Path
) -> None:
    async def story(client: Client) -> None:
        client.send(Ping(7))
        info = await client.receive()
        assert isinstance(info, EngineInfo)
        assert info.precision == "int8"
        assert 0.5 < info.golden_overlap < 1

    environment = {"PROREC_PRECISION": "int8", "PROREC_PRECISION_OVERLAP_PERCENT": "50"}
    with running(encoder_decoder_artifact, socket_path, **environment):
        talk(socket_path, story)


def test_it_says_what_it_is_and_gives_the_golden_answers(artifact: Artifact, socket_path: Path) -> None:
    golden = artifact.golden()

    async def story(client: Client) -> None:
        client.send(Ping(7))
        info = await client.receive()
        assert isinstance(info, EngineInfo)
        assert (info.query_id, info.model_version, info.item_count) == (7, "tiny-1", 60)
        assert (info.pid, info.beam_widths) == (process.pid, [4, 8])
        replies = await client.ask(*(query(number, row["history"]) for number, row in enumerate(golden)))
        for number, row in enumerate(golden):
            reply = replies[number]
            assert isinstance(reply, Answer)
            assert reply.item_ids == row["items"]

    with running(artifact, socket_path) as process:
        talk(socket_path, story)


def test_each_kind_of_query_gets_its_reply(artifact: Artifact, socket_path: Path) -> None:
    async def story(client: Client) -> None:
        replies = await client.ask(
            query(1, []),
            query(2, k=9),
            query(3, deadline=time.monotonic()),
            query(4, [f"item-{number % 60}" for number in range(10_000)]),
            query(5, ["item-1"] * 10_000),
        )
        popular, wide, late, everything, long = (replies[number] for number in range(1, 6))
        assert isinstance(popular, Answer)
        assert popular.source == "popular"
        assert isinstance(wide, Failure)
        assert (wide.code, "between 1 and 8" in wide.message) == ("bad_k", True)
        assert isinstance(late, Failure)
        assert late.code == "deadline_exceeded"
        assert isinstance(everything, Answer)
        assert (everything.item_ids, everything.exhausted, everything.truncated) == ([], True, 9_994)
        assert isinstance(long, Answer)
        assert (len(long.item_ids), long.used) == (4, 6)

    with running(artifact, socket_path):
        talk(socket_path, story)


def test_sigterm_answers_everything_in_flight_and_exits_cleanly(artifact: Artifact, socket_path: Path) -> None:
    async def story(client: Client) -> None:
        client.send(Ping(0))
        assert isinstance(await client.receive(), EngineInfo)
        client.send(*(query(number) for number in range(800)))
        process.send_signal(signal.SIGTERM)
        replies = await client.replies(800)
        assert all(isinstance(reply, Answer) for reply in replies.values())
        assert await client.receive() is None

    with running(artifact, socket_path, PROREC_MAX_BATCH_ROWS="1") as process:
        talk(socket_path, story)
        assert process.wait(START_S) == 0
    assert not socket_path.exists()


def test_the_end_of_stdin_ends_it(artifact: Artifact, socket_path: Path) -> None:
    async def story(client: Client) -> None:
        assert process.stdin is not None
        process.stdin.close()
        assert await client.receive() is None

    with running(artifact, socket_path) as process:
        talk(socket_path, story)
        assert process.wait(START_S) == 0


def test_ctrl_c_is_left_to_the_parent(artifact: Artifact, socket_path: Path) -> None:
    async def story(client: Client) -> None:
        process.send_signal(signal.SIGINT)
        assert isinstance((await client.ask(query(1)))[1], Answer)

    with running(artifact, socket_path) as process:
        talk(socket_path, story)


def test_a_client_that_leaves_with_queries_in_flight_makes_room_for_others(
    artifact: Artifact, socket_path: Path
) -> None:
    async def story(client: Client) -> None:
        leaver = await Client.connect(socket_path)
        leaver.send(*(query(number) for number in range(100)))
        await leaver.writer.drain()
        await leaver.close()
        give_up = time.monotonic() + START_S
        while not isinstance((await client.ask(query(1)))[1], Answer):
            assert time.monotonic() < give_up

    with running(artifact, socket_path, PROREC_QUEUE_LIMIT="100", PROREC_MAX_BATCH_ROWS="1"):
        talk(socket_path, story)


def test_a_full_queue_refuses_and_still_every_query_gets_one_reply(artifact: Artifact, socket_path: Path) -> None:
    async def story(client: Client) -> None:
        replies = await client.ask(*(query(number) for number in range(200)))
        codes = {reply.code for reply in replies.values() if isinstance(reply, Failure)}
        assert codes == {"overloaded"}
        assert any(isinstance(reply, Answer) for reply in replies.values())

    with running(artifact, socket_path, PROREC_QUEUE_LIMIT="2"):
        talk(socket_path, story)


def test_a_cancelled_query_gets_one_reply_too(artifact: Artifact, socket_path: Path) -> None:
    async def story(client: Client) -> None:
        queries = [query(number) for number in range(50)]
        client.send(*queries, *(Cancel(number) for number in range(0, 50, 2)), Cancel(999))
        replies = await client.replies(50)
        assert all(isinstance(replies[number], Answer) for number in range(1, 50, 2))

    with running(artifact, socket_path):
        talk(socket_path, story)


def test_a_broken_peer_loses_its_connection_and_nobody_else_does(artifact: Artifact, socket_path: Path) -> None:
    async def story(client: Client) -> None:
        for garbage in (b"\x01\x00\x00\x00\xc1", b"\xff\xff\xff\xff", pack(query(1), msgspec.msgpack.Encoder()) * 2):
            peer = await Client.connect(socket_path)
            peer.writer.write(garbage)
            while await peer.receive() is not None:
                pass
            await peer.close()
        assert isinstance((await client.ask(query(1)))[1], Answer)

    with running(artifact, socket_path):
        talk(socket_path, story)


def test_it_counts_in_the_replica_s_metrics(artifact: Artifact, socket_path: Path, tmp_path: Path) -> None:
    async def story(client: Client) -> None:
        await client.ask(query(1), query(2, k=9), query(3, [f"item-{number}" for number in range(60)]))

    with running(artifact, socket_path, PROMETHEUS_MULTIPROC_DIR=str(tmp_path)):
        talk(socket_path, story)
        registry = CollectorRegistry()
        MultiProcessCollector(registry, str(tmp_path))  # type: ignore[no-untyped-call]
        assert registry.get_sample_value("prorec_rejected_total", {"reason": "bad_k"}) == 1
        assert registry.get_sample_value("prorec_exhausted_total") == 1
        assert registry.get_sample_value("prorec_invalid_codes_total") == 0
        assert registry.get_sample_value("prorec_queue_depth") == 0
        assert registry.get_sample_value("prorec_batch_rows_sum") == 2
        assert registry.get_sample_value("prorec_stage_duration_seconds_count", {"stage": "queue"}) == 2


def test_it_refuses_to_serve_a_model_that_answers_otherwise(
    artifact: Artifact, tmp_path: Path, socket_path: Path
) -> None:
    folder = tmp_path / "tampered"
    shutil.copytree(artifact.folder, folder)
    golden = artifact.golden()
    golden[2]["scores"][0] += 1.0
    (folder / GOLDEN).write_text(json.dumps(golden))
    line = stderr_of_failed_start(folder, socket_path)
    assert line.startswith("the engine could not start: golden request 2 of model tiny-1 has another answer here:")


def test_it_says_what_is_wrong_with_an_artifact(artifact: Artifact, tmp_path: Path, socket_path: Path) -> None:
    assert "is not an artifact" in stderr_of_failed_start(tmp_path, socket_path)
    folder = tmp_path / "cut"
    shutil.copytree(artifact.folder, folder)
    artifact_graph = folder / artifact.cpu_graph_path(4).name
    artifact_graph.write_bytes(artifact_graph.read_bytes()[:1000])
    assert stderr_of_failed_start(folder, socket_path).startswith("the engine could not start: ")


def priorities(process: "subprocess.Popen[str]") -> list[int]:
    """Nice value of every thread."""
    tasks = Path(f"/proc/{process.pid}/task").iterdir()
    return sorted(int((task / "stat").read_text().rpartition(")")[2].split()[16]) for task in tasks)


def test_stages_of_the_start_are_told_and_nothing_else(artifact: Artifact, socket_path: Path) -> None:
    command = [sys.executable, "-m", "service.engine", "--artifact", str(artifact.folder), "--socket", str(socket_path)]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        assert process.stdin is not None
        stages = [process.stdout.readline() for _ in range(4)]
        assert stages == [f"stage {stage}\n" for stage in ("verifying", "loading", "warming", "ready")]
        assert socket_path.exists()
        process.stdin.close()
        assert process.stdout.read() == ""


def test_only_the_start_is_quiet_and_a_background_engine_always(artifact: Artifact, socket_path: Path) -> None:
    async def nothing(_: Client) -> None:
        pass

    with running(artifact, socket_path, PROREC_ENGINE_THREADS="2") as process:
        talk(socket_path, nothing)
        own = os.getpriority(os.PRIO_PROCESS, 0)
        assert priorities(process).count(own) >= 3  # the event loop, the search, and its second part
    with start(artifact.folder, socket_path, "--background") as process:
        talk(socket_path, nothing)
        assert set(priorities(process)) == {19}
        process.kill()


def test_a_start_at_once_works_in_the_thread_that_asks() -> None:
    mine = threading.get_ident()
    with start_pace(at_once=True, background=False) as call:
        assert call(threading.get_ident) == mine
    with start_pace(at_once=False, background=False) as call:
        assert call(threading.get_ident) != mine


@pytest.mark.parametrize(("program", "flags", "priority"), [
    ("service.engine", [], 0), ("service.engine", ["--at-once"], 0), ("service.engine", ["--background"], 19),
    ("service.reader", [], 10),
])  # fmt: skip
def test_a_process_in_a_session_of_its_own_has_its_priority_among_sessions(
    artifact: Artifact, socket_path: Path, program: str, flags: list[str], priority: int
) -> None:
    command = [sys.executable, "-m", program, *flags, "--artifact", str(artifact.folder), "--socket", str(socket_path)]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.DEVNULL, start_new_session=True) as process:
        while not socket_path.exists():
            assert process.poll() is None
            time.sleep(0.01)
        session = Path(f"/proc/{process.pid}/autogroup")
        if session.exists():  # a kernel that shares the processor out among sessions
            assert session.read_text().endswith(f" nice {priority}\n")
        assert process.stdin is not None
        process.stdin.close()


def test_a_socket_path_the_system_cannot_hold_is_named(artifact: Artifact, tmp_path: Path) -> None:
    line = stderr_of_failed_start(artifact.folder, tmp_path / ("x" * 108))
    assert "bytes, the system allows 107" in line
