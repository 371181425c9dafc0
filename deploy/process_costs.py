"""What the processes of a replica spend: processor time of workers, engine and supervisor, read from the system.

Processes are told apart by what they do, not by how they were started: workers listen on the replica's port, the engine
answers on its Unix socket and names its process.
"""

import socket
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Final

import msgspec
import psutil

from service.frames import Answer, EngineInfo, Ping, Query, Reply, Request, pack

_HEAD_BYTES: Final = 4
_TIMEOUT_S: Final = 10.0


@dataclass(frozen=True)
class Processes:
    """A replica with one engine."""

    supervisor: psutil.Process
    workers: list[psutil.Process]
    engine: psutil.Process
    engine_socket: str

    def spent(self) -> "Spent":
        loop_s = next(thread.user_time + thread.system_time for thread in self.engine.threads()
                      if thread.id == self.engine.pid)  # fmt: skip
        return Spent(_cpu_s(self.supervisor), sum(map(_cpu_s, self.workers)), _cpu_s(self.engine), loop_s)


@dataclass(frozen=True)
class Spent:
    """Seconds of processor time, of all workers together.

    `engine_loop` is the share of the engine's first thread, which never searches.
    """

    supervisor: float
    worker: float
    engine: float
    engine_loop: float

    def __sub__(self, other: "Spent") -> "Spent":
        return Spent(
            self.supervisor - other.supervisor,
            self.worker - other.worker,
            self.engine - other.engine,
            self.engine_loop - other.engine_loop,
        )


def find(supervisor_pid: int, port: int) -> Processes:
    """Raises RuntimeError where the replica has no worker or no engine that answers."""
    supervisor = psutil.Process(supervisor_pid)
    children = supervisor.children(recursive=True)
    workers = [child for child in children if _listens(child, port)]
    if not workers:
        raise RuntimeError("no worker of the replica listens on its port")
    for path in _sockets(children):
        if (pid := _engine_pid(path)) is not None:
            return Processes(supervisor, workers, psutil.Process(pid), path)
    raise RuntimeError("no engine of the replica answers a query")


def _cpu_s(process: psutil.Process) -> float:
    times = process.cpu_times()
    return float(times.user + times.system)


def _listens(process: psutil.Process, port: int) -> bool:
    ends = process.net_connections("tcp")
    return any(end.status == psutil.CONN_LISTEN and end.laddr.port == port for end in ends)


def _sockets(children: list[psutil.Process]) -> Iterator[str]:
    """Paths that some child listens on."""
    for child in children:
        for end in child.net_connections("unix"):
            if isinstance(end.laddr, str) and end.laddr:
                yield end.laddr


def _engine_pid(path: str) -> int | None:
    """None for anything that is no engine, such as a reader, which refuses queries."""
    try:
        with socket.socket(socket.AF_UNIX) as connection:
            connection.settimeout(_TIMEOUT_S)
            connection.connect(path)
            if not isinstance(exchange(connection, Query(1, [], 1, deadline=float("inf"))), Answer):
                return None
            info = exchange(connection, Ping(2))
    except (OSError, msgspec.MsgspecError):
        return None
    return info.pid if isinstance(info, EngineInfo) else None


_encoder: Final = msgspec.msgpack.Encoder()
_decoder: Final[msgspec.msgpack.Decoder[Reply]] = msgspec.msgpack.Decoder(Reply)


def exchange(connection: socket.socket, message: Request) -> Reply:
    """One question over a blocking socket and its reply; raises OSError where the peer ends the connection."""
    connection.sendall(pack(message, _encoder))
    length = int.from_bytes(_exactly(connection, _HEAD_BYTES), "little")
    return _decoder.decode(_exactly(connection, length))


def _exactly(connection: socket.socket, count: int) -> bytes:
    received = bytearray()
    while len(received) < count:
        chunk = connection.recv(count - len(received))
        if not chunk:
            raise OSError("the peer ended the connection")
        received += chunk
    return bytes(received)
