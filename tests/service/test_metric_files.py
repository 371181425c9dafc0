"""What ended processes counted stays counted, in one file."""

import errno
import os
import subprocess
import sys
import threading
from pathlib import Path
from typing import Any

import pytest
from prometheus_client import CollectorRegistry
from prometheus_client.mmap_dict import MmapedDict
from prometheus_client.multiprocess import MultiProcessCollector

from service import metric_files
from service.metric_files import archive, reading

COUNTS = """
from service import metrics
metrics.REQUESTS.labels("200").inc(2)
metrics.BATCH_ROWS.observe(3)
metrics.QUEUE_DEPTH.set(7)
"""


def counting_process(folder: Path) -> int:
    """Its id, after it has counted and ended."""
    process = subprocess.Popen(
        [sys.executable, "-c", COUNTS], env=os.environ | {"PROMETHEUS_MULTIPROC_DIR": str(folder)}
    )
    assert process.wait() == 0
    return process.pid


def value(folder: Path, name: str, **labels: str) -> float | None:
    registry = CollectorRegistry()
    MultiProcessCollector(registry, str(folder))  # type: ignore[no-untyped-call]
    with reading(folder):
        return registry.get_sample_value(name, labels)


def test_counters_and_histograms_add_up_over_processes_that_have_ended(tmp_path: Path) -> None:
    for number in range(1, 4):
        archive(tmp_path, counting_process(tmp_path))
        assert value(tmp_path, "prorec_requests_total", status="200") == 2 * number
        assert value(tmp_path, "prorec_batch_rows_count") == number
        assert value(tmp_path, "prorec_batch_rows_bucket", le="2.0") == 0
        assert value(tmp_path, "prorec_batch_rows_bucket", le="4.0") == number
    assert sorted(path.name for path in tmp_path.glob("*.db")) == ["counter_ended.db", "histogram_ended.db"]


def test_gauges_of_a_process_end_with_it(tmp_path: Path) -> None:
    pid = counting_process(tmp_path)
    assert value(tmp_path, "prorec_queue_depth") == 7
    archive(tmp_path, pid)
    assert value(tmp_path, "prorec_queue_depth") is None


def test_a_process_that_counted_nothing_changes_nothing(tmp_path: Path) -> None:
    archive(tmp_path, 4_000_000)
    assert not list(tmp_path.glob("*.db"))


def test_a_file_that_was_never_begun_properly_is_no_obstacle(tmp_path: Path) -> None:
    (tmp_path / "counter_77.db").write_bytes(b"")
    archive(tmp_path, counting_process(tmp_path))
    archive(tmp_path, 77)
    assert value(tmp_path, "prorec_requests_total", status="200") == 2


def test_a_scrape_sees_each_process_once_while_processes_end(tmp_path: Path) -> None:
    pids = [counting_process(tmp_path) for _ in range(4)]

    def end() -> None:
        for pid in pids:
            archive(tmp_path, pid)

    ended = threading.Thread(target=end)
    ended.start()
    seen = {value(tmp_path, "prorec_requests_total", status="200") for _ in range(50)}
    ended.join()
    assert seen == {8.0}


def test_a_full_disk_costs_what_one_process_counted_and_not_the_one_that_archives(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A mapped file that cannot grow ends whoever writes to it with SIGBUS, so room is asked for before."""
    pid = counting_process(tmp_path)

    def full(*_: int) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(os, "posix_fallocate", full)
    with pytest.raises(OSError, match="No space left"):
        archive(tmp_path, pid)


def test_room_is_there_before_it_is_written_to(tmp_path: Path) -> None:
    for path, keys in (("source.db", 2000), ("target.db", 1500)):
        held: Any = MmapedDict(str(tmp_path / path))  # type: ignore[no-untyped-call]
        for number in range(keys):
            held.write_value(f"{path} {number:040}", 1.0, 0.0)
        held.close()
    used = sum(metric_files._used(tmp_path / path) for path in ("source.db", "target.db"))
    metric_files._allocate(tmp_path / "target.db", tmp_path / "source.db")
    assert (tmp_path / "target.db").stat().st_size >= used
    assert (tmp_path / "target.db").stat().st_blocks * 512 >= used
    metric_files._add(tmp_path / "source.db", tmp_path / "target.db")
    assert len(metric_files._values(tmp_path / "target.db")) == 3500
