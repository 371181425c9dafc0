"""The Dockerfile's own commands, run in an empty virtual environment: what the image would install, start and check."""

import json
import os
import re
import shlex
import shutil
import socket
import subprocess
import time
import tomllib
import venv
from pathlib import Path

import httpx
import pytest

ROOT = Path(__file__).parent.parent.parent
DOCKERFILE = re.sub(r"\\\n", " ", (ROOT / "Dockerfile").read_text())


def instructions(name: str) -> list[str]:
    return re.findall(rf"^{name} (.+)$", DOCKERFILE, re.MULTILINE)


def exec_form(instruction: str) -> list[str]:
    command: list[str] = json.loads(instruction[instruction.index("[") :])
    return command


@pytest.fixture(scope="module")
def image(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An environment with what `RUN pip install` installs from what `COPY` copies, and nothing else."""
    folder = tmp_path_factory.mktemp("image")
    app = folder / "app"
    app.mkdir()
    for arguments in instructions("COPY"):
        *sources, target = shlex.split(arguments)
        for source in sources:
            place = app / target / (source if target == "./" else "")
            origin = ROOT / source
            if origin.is_dir():
                shutil.copytree(origin, place, ignore=shutil.ignore_patterns("__pycache__"))
            else:
                shutil.copy(origin, place)
    venv.create(folder / "venv", with_pip=True)
    commands = (re.sub(r"^--mount=\S+ ", "", command) for command in instructions("RUN"))
    (install,) = (command for command in commands if command.startswith("pip install"))
    command = shlex.split(install.replace("${EXTRAS}", ""))
    subprocess.run([folder / "venv/bin/python", "-m", *command, "--quiet"], cwd=app, check=True)
    shutil.rmtree(app)
    return folder / "venv"


def environment(image: Path, folder: Path, port: int) -> dict[str, str]:
    """The image's `ENV`, on this machine's loopback, with the image's programs first on PATH."""
    variables = dict(pair.split("=", 1) for line in instructions("ENV") for pair in shlex.split(line))
    own = {"PROREC_HOST": "127.0.0.1", "PROREC_PORT": str(port), "PROREC_DATA_DIR": str(folder)}
    return {"PATH": f"{image / 'bin'}:{os.environ['PATH']}", "HOME": str(folder)} | variables | own


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def wait_for(address: str, process: "subprocess.Popen[bytes]") -> None:
    deadline = time.monotonic() + 60
    while time.monotonic() < deadline:
        assert process.poll() is None, "the container's command ended"
        try:
            httpx.get(f"{address}/health/live").raise_for_status()
        except httpx.TransportError:
            time.sleep(0.1)
        else:
            return
    pytest.fail("the container's command never answered")


@pytest.mark.timeout(600)
def test_the_image_starts_answers_its_health_check_and_stops(image: Path, tmp_path: Path) -> None:
    port = free_port()
    variables = environment(image, tmp_path, port)
    process = subprocess.Popen(exec_form(instructions("CMD")[-1]), env=variables, cwd=tmp_path)
    try:
        address = f"http://127.0.0.1:{port}"
        wait_for(address, process)
        ready = httpx.get(f"{address}/health/ready")
        assert ready.status_code == 503
        assert ready.json()["reasons"]
        (health,) = instructions("HEALTHCHECK")
        subprocess.run(exec_form(health), env=variables, check=True)
    finally:
        process.terminate()
        assert process.wait(60) == 0
    with pytest.raises(subprocess.CalledProcessError):
        subprocess.run(exec_form(health), env=variables, check=True, stderr=subprocess.DEVNULL)


@pytest.mark.timeout(600)
def test_the_image_has_no_torch(image: Path) -> None:
    code = "import importlib.util, service; raise SystemExit(importlib.util.find_spec('torch') is not None)"
    subprocess.run([image / "bin/python", "-c", code], check=True)


def test_the_image_has_what_settings_and_new_items_need() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    (default,) = (literal.split("=")[1].strip('"[]').split(",") for literal in instructions("ARG"))
    assert {"text", "int8"} == set(default)
    (gpu,) = re.findall(r"--build-arg EXTRAS=\[(.+?)\]", DOCKERFILE)
    assert {*default, "gpu"} == set(gpu.split(","))
    assert set(gpu.split(",")) <= project["optional-dependencies"].keys()


def test_the_image_does_not_run_as_root() -> None:
    assert instructions("USER") == ["prorec"]


def test_the_image_has_a_python_the_project_allows() -> None:
    version = re.fullmatch(r"python:(3\.\d+)-slim", instructions("FROM")[0])
    assert version
    assert version[1] in ("3.11", "3.12")
