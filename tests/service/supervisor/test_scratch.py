"""What a replica leaves in the folder for temporary files: nothing, however it ends."""

import os
import signal
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import pytest

from service.supervisor import scratch
from service.supervisor.scratch import scratch_folder

REPLICA = """
import os, sys, time
from service.supervisor.scratch import scratch_folder
with scratch_folder() as folder:
    (folder / "engine.sock").touch()
    if "child" in sys.argv and not os.fork():
        time.sleep(600)
    print(folder, flush=True)
    time.sleep(600)
"""


@pytest.fixture
def temporary(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    monkeypatch.setenv("TMPDIR", str(tmp_path))
    monkeypatch.setattr(tempfile, "tempdir", None)
    yield tmp_path
    tempfile.tempdir = None


class Other:
    """Another replica, in a process group of its own."""

    def __init__(self, *words: str) -> None:
        command = [sys.executable, "-c", REPLICA, *words]
        self._process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True, start_new_session=True)
        assert self._process.stdout is not None
        self.folder = Path(self._process.stdout.readline().strip())

    def kill(self) -> None:
        """The replica alone."""
        self._process.kill()
        self._process.wait()

    def end(self) -> None:
        with suppress(ProcessLookupError):
            os.killpg(self._process.pid, signal.SIGKILL)
        self._process.wait()
        assert self._process.stdout is not None
        self._process.stdout.close()


@pytest.fixture
def other(temporary: Path) -> Iterator[Other]:
    assert tempfile.gettempdir() == str(temporary)
    replica = Other()
    yield replica
    replica.end()


def test_a_folder_ends_with_its_replica(temporary: Path) -> None:
    with scratch_folder() as folder:
        assert folder.is_dir()
    assert list(temporary.iterdir()) == []


def test_of_a_killed_replica_the_next_one_removes_it(temporary: Path, other: Other) -> None:
    other.kill()
    assert (other.folder / "engine.sock").exists()
    with scratch_folder() as folder:
        assert [path.name for path in temporary.iterdir()] == [folder.name]


def test_that_of_a_replica_that_lives_stays(other: Other) -> None:
    with scratch_folder():
        assert (other.folder / "engine.sock").exists()


@pytest.mark.usefixtures("temporary")
def test_while_an_engine_outlives_its_replica_the_folder_stays() -> None:
    other = Other("child")
    try:
        other.kill()
        with scratch_folder():
            assert (other.folder / "engine.sock").exists()
    finally:
        other.end()


def test_what_is_no_replicas_stays(temporary: Path) -> None:
    (temporary / "prorec-notes").mkdir()
    (temporary / "else").mkdir()
    (temporary / "else" / "owner.lock").touch()
    with scratch_folder():
        pass
    assert sorted(path.name for path in temporary.rglob("*")) == ["else", "owner.lock", "prorec-notes"]


@pytest.fixture
def free(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    """No TMPDIR, and a system without logins."""
    monkeypatch.delenv("TMPDIR", raising=False)
    monkeypatch.setattr(scratch, "_SYSTEMD", tmp_path / "no systemd")
    return tmp_path


def test_mapped_files_are_kept_in_memory_where_there_is_room(free: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert scratch._parent(free) == free
    assert scratch._parent(free / "nowhere") is None
    monkeypatch.setattr(scratch, "_LEAST_FREE_BYTES", 1 << 62)
    assert scratch._parent(free) is None


@pytest.mark.parametrize(("user", "safe"), [(0, True), (999, True), (1000, False)])
def test_where_a_logout_would_remove_them_they_are_elsewhere(
    free: Path, monkeypatch: pytest.MonkeyPatch, user: int, safe: bool
) -> None:
    monkeypatch.setattr(scratch, "_SYSTEMD", free)
    monkeypatch.setattr(os, "getuid", lambda: user)
    assert (scratch._parent(free) == free) == safe


def test_whoever_names_a_folder_gets_it(temporary: Path) -> None:
    assert scratch._parent(Path("/dev/shm")) is None
    with scratch_folder() as folder:
        assert folder.parent == temporary


def test_what_killed_replicas_left_goes_from_wherever_it_is(
    other: Other, temporary: Path, monkeypatch: pytest.MonkeyPatch, tmp_path_factory: pytest.TempPathFactory
) -> None:
    other.kill()
    monkeypatch.setattr(scratch, "_MEMORY", temporary)
    monkeypatch.setenv("TMPDIR", str(tmp_path_factory.mktemp("elsewhere")))
    monkeypatch.setattr(tempfile, "tempdir", None)
    with scratch_folder():
        assert not other.folder.exists()
