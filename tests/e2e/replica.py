"""A real replica for tests: the supervisor as its own process, and what it started."""

import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import httpx
import psutil

from service.embedded_redis import find_binary

TOKEN = "a token for tests"
_POLL_S = 0.02


def wait_until(condition: Callable[[], bool]) -> None:
    """Returns when it holds; the test's own timeout ends a wait in vain."""
    while not condition():
        time.sleep(_POLL_S)


class RedisServer:
    """A real server on a Unix socket, with an append-only file, so that it can come back with its data."""

    def __init__(self, folder: Path) -> None:
        self.socket = folder / "redis"
        self.url = f"unix://{self.socket}"
        self._folder = folder
        self.start()

    def start(self) -> None:
        options = {
            "port": "0", "unixsocket": str(self.socket), "dir": str(self._folder), "appendonly": "yes",
            "appendfsync": "always", "save": "",
        }  # fmt: skip
        words = [word for name, value in options.items() for word in (f"--{name}", value)]
        self.process = subprocess.Popen([find_binary(), *words], stdout=subprocess.DEVNULL)

    def kill(self) -> None:
        self.process.kill()
        self.process.wait()


class Replica:
    """A supervisor process, its address, and its children."""

    def __init__(self, settings: dict[str, Any]) -> None:
        variables = {f"PROREC_{name.upper()}": str(value) for name, value in settings.items()}
        own = {name: value for name, value in os.environ.items() if not name.startswith("PROREC_")}
        self.process = subprocess.Popen(
            [sys.executable, "-m", "service"],
            env=own | {"PROREC_PORT": "0", "PROREC_POLL_INTERVAL_S": "0.1", "PROREC_ENGINE_THREADS": "1"} | variables,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        self.client = httpx.Client()
        self.errors: list[str] = []
        threading.Thread(target=self._collect_errors, daemon=True).start()

    def first_line(self) -> str:
        """What it prints first; from then on `client` can be used."""
        assert self.process.stdout is not None
        line = self.process.stdout.readline()
        address = next((word for word in line.split() if word.startswith("http://")), "").rstrip(":")
        self.connect(address)
        return line

    def connect(self, address: str) -> None:
        self.client.close()
        self.client = httpx.Client(base_url=address, timeout=60.0)

    def children(self, *words: str) -> list[psutil.Process]:
        """Processes below the supervisor whose command line has all these words."""
        found = psutil.Process(self.process.pid).children(recursive=True)
        return [child for child in found if set(words) <= set(_command(child))]

    def engine(self) -> psutil.Process:
        (engine,) = self.children("service.engine")
        return engine

    def ready(self) -> dict[str, Any]:
        answer: dict[str, Any] = self.client.get("/health/ready").json()
        return answer

    def unready(self) -> bool:
        """Whether it says that it takes no more requests, or takes no more connections."""
        try:
            return self.client.get("/health/ready").status_code == 503
        except httpx.TransportError:
            return True

    def refuses(self) -> bool:
        """Whether it takes no more connections."""
        try:
            httpx.get(self.client.base_url.join("/health/live"))
        except httpx.TransportError:
            return True
        return False

    def wait_for(self, **fields: Any) -> dict[str, Any]:
        """Until readiness has these values; returns it."""
        while not fields.items() <= (found := self.ready()).items():
            time.sleep(_POLL_S)
        return found

    def recommend(self, *history: str, k: int = 4) -> httpx.Response:
        return self.client.post("/recommend", json={"history": list(history), "k": k})

    def activate(self, version: str) -> httpx.Response:
        return self.admin(f"/models/{version}/activate")

    def admin(self, path: str) -> httpx.Response:
        return self.client.post(path, headers={"Authorization": f"Bearer {TOKEN}"})

    def document(self, item_id: str) -> dict[str, Any]:
        """What the reader knows of an item."""
        answer: dict[str, Any] = self.client.get(f"/items/{item_id}").json()
        return answer

    def patch(self, body: dict[str, Any]) -> httpx.Response:
        return self.client.patch("/catalog/items", json=body, headers={"Authorization": f"Bearer {TOKEN}"})

    def models(self) -> dict[str, Any]:
        answer: dict[str, Any] = self.client.get("/models", headers={"Authorization": f"Bearer {TOKEN}"}).json()
        return answer

    def model(self, version: str) -> dict[str, Any]:
        headers = {"Authorization": f"Bearer {TOKEN}"}
        answer: dict[str, Any] = self.client.get(f"/models/{version}", headers=headers).json()
        return answer

    def metric(self, name: str) -> float:
        """The value of one series, or without labels the sum over a metric's series."""
        rows = [line.rsplit(" ", 1) for line in self.client.get("/metrics").text.splitlines() if line[0] != "#"]
        return sum(float(value) for series, value in rows if name in (series, series.partition("{")[0]))

    def end(self, number: signal.Signals = signal.SIGTERM) -> int:
        """Its exit code, after everything it started has ended too."""
        everyone = psutil.Process(self.process.pid).children(recursive=True)
        self.process.send_signal(number)
        code = self.process.wait()
        _, alive = psutil.wait_procs(everyone, timeout=0 if number != signal.SIGKILL else 30)
        assert not alive, f"still there: {alive}"
        return code

    def stop(self) -> None:
        if self.process.poll() is None:
            self.end()

    def _collect_errors(self) -> None:
        assert self.process.stderr is not None
        for line in self.process.stderr:
            self.errors.append(line)
            sys.stderr.write(line)


@contextmanager
def replica(**settings: Any) -> Iterator[Replica]:
    """A replica with these settings, ended with the block."""
    started = Replica({"admin_token": TOKEN} | settings)
    try:
        yield started
    finally:
        started.stop()
        started.client.close()
        for stream in (started.process.stdout, started.process.stderr):
            assert stream is not None
            stream.close()


def _command(process: psutil.Process) -> list[str]:
    """One that was forked shows its words as one."""
    try:
        return " ".join(process.cmdline()).split()
    except psutil.NoSuchProcess:
        return []


class Load:
    """Threads that ask without a pause; every answer is kept."""

    def __init__(self, ask: Callable[[], httpx.Response], threads: int = 6) -> None:
        self.answers: list[httpx.Response | Exception] = []
        self._ask = ask
        self._stop = threading.Event()
        self._threads = [threading.Thread(target=self._run) for _ in range(threads)]

    def __enter__(self) -> "Load":
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(self, *_error: object) -> None:
        self._stop.set()
        for thread in self._threads:
            thread.join()

    def more(self, count: int) -> None:
        """Returns when that many more answers have come."""
        until = len(self.answers) + count
        wait_until(lambda: len(self.answers) >= until)

    def _run(self) -> None:
        while not self._stop.is_set():
            try:
                self.answers.append(self._ask())
            except httpx.HTTPError as error:
                self.answers.append(error)
