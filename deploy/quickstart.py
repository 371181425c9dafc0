"""From nothing to recommendations: fetch MovieLens-100k, train, evaluate, export, publish, activate, serve.

Run it with `make quickstart`. What an earlier run made is used again. Ctrl-C ends the service and all it started.
"""

import json
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated, Any, Literal

import httpx
import typer

from models.artifact import Artifact

DATA = Path("data/movielens-100k")
ARTIFACT = Path("artifacts/movielens-100k-1")
_FANS_OF_SPACE = ["50", "172", "181"]  # Star Wars, The Empire Strikes Back, Return of the Jedi
_START_LIMIT_S = 120
_LEVEL = "On so small a dataset PRORec and SASRec are about level; docs/results.md has benchmarks where they are not."
_HOST = os.environ.get("PROREC_HOST") or "127.0.0.1"


def quickstart(source: Annotated[Literal["recbole", "grouplens"], typer.Option()] = "recbole") -> None:
    """Fetches, trains, publishes and serves; returns when the service has ended."""
    python, port = sys.executable, _free_port()
    _step("Data", [python, "-m", "training", "fetch", str(DATA), "--source", source])
    train = [python, "-m", "training", "run", "--data", str(DATA), "--preset", "quickstart", "--out", str(ARTIFACT)]
    _step(
        "Training, evaluation, export: some minutes the first time, two or three of them silent", [*train, "--no-table"]
    )
    _step("Publishing to Redis", [python, "-m", "service", "publish", str(ARTIFACT)])
    _activate(python)
    code = _serve([python, "-m", "service"], port)
    print("Stopped." if code == 0 else f"The service ended with exit code {code}.")
    sys.exit(code)


def _activate(python: str) -> None:
    """Another version that somebody activated meanwhile stays active."""
    listing = _started([python, "-m", "service", "models", "--json"], stdout=subprocess.PIPE)
    active = json.loads(_output_of(listing))["active"]
    if active and active["version"] not in (None, ARTIFACT.name):
        print(
            f"\n── {active['version']} is active and stays so (python -m service activate {ARTIFACT.name})", flush=True
        )
    else:
        _step("Activating", [python, "-m", "service", "activate", ARTIFACT.name])


def _free_port() -> int:
    """The port to serve on, asked for before the long work and not after it; PROREC_PORT=0 takes any."""
    wanted = os.environ.get("PROREC_PORT") or "8000"
    with socket.socket(socket.AF_INET6 if ":" in _HOST else socket.AF_INET) as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((_HOST, int(wanted)))
        except (OSError, ValueError, OverflowError) as error:
            sys.exit(f"error: cannot serve on {_HOST}:{wanted}: {error}; choose another port with PROREC_PORT")
        return int(probe.getsockname()[1])


def _step(title: str, command: list[str]) -> None:
    print(f"\n── {title}", flush=True)
    _output_of(_started(command))


def _output_of(step: "subprocess.Popen[bytes]") -> bytes:
    """What it writes to a pipe, if it has one; where it fails, this program ends as it has."""
    with _passed_on(lambda number: step.send_signal(number)):
        output, _ = step.communicate()
    if code := step.returncode:
        sys.exit(code if code > 0 else 128 - code)  # as a shell counts children that a signal ended
    return output or b""


def _serve(command: list[str], port: int) -> int:
    """Runs the service until something ends us; it drains first."""
    print("\n── Serving", flush=True)
    service = _started(command, env=os.environ | {"PROREC_PORT": str(port)})
    with _passed_on(lambda _: service.terminate()):
        address = _address(_HOST, port)
        if _wait_until_ready(service, address):
            _print_summary(address)
        return service.wait()


def _started(command: list[str], **options: Any) -> "subprocess.Popen[bytes]":
    """A child in a process group of its own: Ctrl-C, which a terminal sends to all of ours, reaches it through us."""
    return subprocess.Popen(command, process_group=0, **options)


@contextmanager
def _passed_on(tell: Callable[[int], None]) -> Iterator[None]:
    """What would end us meanwhile is told to the child, once, whether it came from a terminal or to us alone; under
    nohup the end of the terminal is not."""
    hang_up = [] if signal.getsignal(signal.SIGHUP) is signal.SIG_IGN else [signal.SIGHUP]
    before = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM, *hang_up)}
    for number in before:
        signal.signal(number, lambda number, _: tell(number))
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def _address(host: str, port: int) -> str:
    """Where a service that listens on `host` answers on this machine."""
    host = {"0.0.0.0": "127.0.0.1", "::": "::1"}.get(host, host)
    return f"http://[{host}]:{port}" if ":" in host else f"http://{host}:{port}"


def _wait_until_ready(service: "subprocess.Popen[bytes]", address: str) -> bool:
    deadline = time.monotonic() + _START_LIMIT_S
    while service.poll() is None and time.monotonic() < deadline:
        try:
            if httpx.get(f"{address}/health/ready").status_code == 200:
                return service.poll() is None
        except httpx.TransportError:
            pass
        time.sleep(0.2)
    return False


def _print_summary(address: str) -> None:
    from training.evaluate import TEST_SET, print_metrics

    manifest = Artifact.open(ARTIFACT, verify=False).manifest
    serving = httpx.get(f"{address}/health/ready").json()["model_version"]
    if serving == manifest.model_version:  # another one may have been activated since
        measured = manifest.metrics_of or TEST_SET
        print_metrics(manifest.metrics, f"{manifest.dataset}: {measured}, through the exported graph")
        print(_LEVEL)
    body = json.dumps({"history": _FANS_OF_SPACE, "k": 5, "return": ["metadata"]})
    print(f"\nServing {serving} on {address} (documentation: {address}/docs). Try:\n")
    print(f"  curl -s {address}/recommend -H 'content-type: application/json' -d '{body}'\n")
    print("Ctrl-C ends it.", flush=True)


if __name__ == "__main__":
    typer.run(quickstart)
