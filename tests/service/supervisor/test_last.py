"""What was served last survives on the disk."""

from pathlib import Path

from service.store import Canary, Deployment
from service.supervisor.last import FILE, remember, remembered


def test_a_deployment_comes_back_as_it_was(tmp_path: Path) -> None:
    deployment = Deployment("v2", 7, ("v1",), ("v3",), Canary("v4", 2.5), "v5", "activate", 12.5)
    remember(tmp_path, Deployment("v1", 1))
    remember(tmp_path, deployment)
    assert remembered(tmp_path) == deployment
    assert [path.name for path in tmp_path.iterdir()] == [FILE]


def test_nothing_is_remembered_where_nothing_was_served_or_the_file_is_damaged(tmp_path: Path) -> None:
    assert remembered(tmp_path) is None
    (tmp_path / FILE).write_text('{"version": 1')
    assert remembered(tmp_path) is None


def test_a_disk_that_cannot_be_written_is_no_fault(tmp_path: Path) -> None:
    remember(tmp_path / "nowhere", Deployment("v1", 1))
    assert remembered(tmp_path / "nowhere") is None
