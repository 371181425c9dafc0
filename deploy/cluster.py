"""Several replicas on one Redis on this machine, as child processes, for benchmarks."""

import os
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import httpx

from models.artifact import Artifact
from service.embedded_redis import embedded_redis
from service.settings import PREFIX
from service.store import Store

from .errors import BenchError
from .load.lanes import Lanes
from .load.memory import tree_bytes

TOKEN: Final = "a token for this run"
_SWITCH_LIMIT_S: Final = 120
_NAMESPACE: Final = "bench"
_K: Final = 10


@dataclass(frozen=True)
class Replica:
    """A running `python -m service` and where it listens."""

    process: "subprocess.Popen[str]"
    address: str

    def memory_bytes(self) -> int:
        """Proportional set size of the supervisor and all its children: shared pages count once."""
        return tree_bytes(self.process.pid)


@dataclass(frozen=True)
class Cluster:
    """Replicas in front of one store; `client` carries the admin token."""

    replicas: Sequence[Replica]
    store: Store

    def client(self) -> httpx.AsyncClient:
        return httpx.AsyncClient(
            timeout=30,
            transport=Lanes(),
            headers={"Authorization": f"Bearer {TOKEN}"},
        )

    def memory_bytes(self) -> int:
        return sum(replica.memory_bytes() for replica in self.replicas)

    async def activate(self, version: str) -> float:
        """Seconds from the call until every replica has told Redis that it serves `version`.

        Raises httpx.HTTPStatusError where one does not within two minutes.
        """
        path, begun = f"{self.replicas[0].address}/models/{version}/activate", time.monotonic()
        async with self.client() as client:
            answer = await client.post(path, json={"wait_s": _SWITCH_LIMIT_S}, timeout=_SWITCH_LIMIT_S + 5)
        answer.raise_for_status()
        return time.monotonic() - begun


@contextmanager
def cluster(folder: Path, count: int, settings: Mapping[str, Any]) -> Iterator[Cluster]:
    """`count` replicas with these settings; everything ends with the block. Nothing is published yet."""
    with ExitStack() as stack:
        url = stack.enter_context(embedded_redis(folder))
        store = Store.connect(url, _NAMESPACE)
        stack.callback(store.close)
        replicas = [_start(folder / f"replica-{number}", url, settings) for number in range(count)]
        for replica in replicas:
            stack.callback(_end, replica)
        yield Cluster([Replica(process, _address(process)) for process in replicas], store)


def golden_bodies(*artifacts: Artifact) -> list[dict[str, Any]]:
    """Bodies of POST /recommend: the artifacts' golden histories, and ten items or as many as each of them can find.

    Raises BenchError where an artifact has none, as one of `deploy.synthetic`.
    """
    for artifact in artifacts:
        if not artifact.golden():
            raise BenchError(f"{artifact.folder} has no golden requests; ask it with `deploy.load_test --synthetic`")
    k = min(_K, *(max(artifact.manifest.beam_widths) for artifact in artifacts))
    return [{"history": row["history"], "k": k} for artifact in artifacts for row in artifact.golden()]


def _start(data_dir: Path, url: str, settings: Mapping[str, Any]) -> "subprocess.Popen[str]":
    own = {name: value for name, value in os.environ.items() if not name.startswith(PREFIX)}
    fixed = {
        "port": 0, "redis_url": url, "namespace": _NAMESPACE, "data_dir": data_dir, "admin_token": TOKEN,
        "engine_threads": 1, "log_level": "warning",
    }  # fmt: skip
    variables = {f"{PREFIX}{name.upper()}": str(value) for name, value in (fixed | dict(settings)).items()}
    return subprocess.Popen(
        [sys.executable, "-m", "service"], env=own | variables, stdout=subprocess.PIPE, text=True, bufsize=1
    )


def _address(process: "subprocess.Popen[str]") -> str:
    assert process.stdout is not None
    line = process.stdout.readline()
    address = next((word for word in line.split() if word.startswith("http://")), None)
    if address is None:
        raise RuntimeError(f"a replica said {line!r} instead of its address")
    return address.rstrip(":")


def _end(process: "subprocess.Popen[str]") -> None:
    process.terminate()
    process.wait()
