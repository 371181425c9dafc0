"""What runs when: the version that serves, the one before it, and what happens when an engine dies."""

import asyncio
import os
import signal
from pathlib import Path

import pytest

from service.store import Canary
from service.supervisor.engine import Engine
from service.supervisor.life import Pace
from service.supervisor.processes import METRICS_FOLDER, Child

from .scene import Scene

pytestmark = pytest.mark.anyio


async def test_a_wanted_version_serves_and_the_one_before_it_ends(scene: Scene) -> None:
    scene.want("v1")
    await scene.serves("v1")
    scene.want("v2")
    await scene.until(lambda: scene.running == ["v2"])
    await scene.until(lambda: scene.state("v1") == "unloaded")
    assert scene.routes == ["v1", "v2"]
    assert scene.board.status.swaps == {"success": 2}


async def test_the_old_engine_lives_until_every_worker_has_acknowledged(scene: Scene) -> None:
    scene.want("v1")
    await scene.serves("v1")
    scene.route_gate.clear()
    scene.want("v2")
    await scene.until(lambda: scene.routes == ["v1", "v2"])
    await asyncio.sleep(0.1)
    assert scene.running == ["v1", "v2"]
    scene.route_gate.set()
    await scene.until(lambda: scene.running == ["v2"])


async def test_a_version_that_cannot_start_leaves_the_old_one_alone_and_serves_once_it_can(scene: Scene) -> None:
    scene.want("v1")
    await scene.serves("v1")
    scene.broken["v2"] = "golden request 3 has another answer"
    scene.want("v2")
    await scene.until(lambda: scene.state("v2") == "failed")
    (failed,) = scene.board.status.failed
    assert failed.reason == "golden request 3 has another answer"
    assert (scene.running, scene.routes) == (["v1"], ["v1"])
    del scene.broken["v2"]
    await scene.serves("v2")
    assert not scene.board.status.failed


async def test_a_start_gives_way_to_what_serves_and_to_nothing_else(scene: Scene) -> None:
    scene.want("v1")
    await scene.serves("v1")
    scene.want("v2", shadow="v3")
    await scene.until(lambda: scene.running == ["v2", "v3"])
    await scene.serves("v2")
    assert set(scene.paces) == {("v1", Pace.AT_ONCE), ("v2", Pace.QUIETLY), ("v3", Pace.BACKGROUND)}
    next(one for one in scene.started if one.version == "v2").child.kill_now()
    await scene.until(lambda: len(scene.paces) == 4)
    assert scene.paces[-1] == ("v2", Pace.AT_ONCE)
    await scene.until(lambda: scene.running == ["v3", "v2"])


async def test_what_is_not_to_serve_starts_quietly_even_where_nothing_serves(scene: Scene) -> None:
    scene.broken["v1"] = "broken"
    scene.want("v1", canary=Canary("v2", 5.0))
    await scene.until(lambda: scene.running == ["v2"])
    assert dict(scene.paces) == {"v1": Pace.AT_ONCE, "v2": Pace.QUIETLY}


async def test_what_nobody_foresaw_is_a_failure_like_any_other(scene: Scene) -> None:
    scene.faults["v1"] = KeyError("shape")
    scene.want("v1")
    await scene.until(lambda: scene.state("v1") == "failed")
    (failed,) = scene.board.status.failed
    assert failed.reason == "a fault in the supervisor: KeyError('shape')"
    del scene.faults["v1"]
    await scene.serves("v1")
    scene.faults["v1"] = KeyError("shape")
    scene.started[0].child.signal(signal.SIGKILL)
    await scene.until(lambda: scene.routes == ["v1", None])
    del scene.faults["v1"]
    await scene.serves("v1")


async def test_a_fault_in_one_switch_does_not_end_all_others(scene: Scene) -> None:
    def fail(_: Engine) -> None:
        raise RuntimeError("nobody foresaw that")

    scene.fleet.on_switch = fail
    for version in ("v1", "v2"):
        scene.want(version)
        await scene.serves(version)
    await scene.until(lambda: scene.running == ["v2"])


async def test_what_failed_is_tried_at_once_when_it_is_asked_for_again(scene: Scene) -> None:
    scene.broken["v1"] = "broken"
    scene.want("v1")
    for attempts in range(1, 12):  # waiting for each would take minutes
        await scene.until(lambda attempts=attempts: scene.board.status.swaps.get("failure", 0) >= attempts)  # type: ignore[misc]
        scene.fleet.nudge()


async def test_what_no_attempt_can_help_is_tried_again_only_when_somebody_asks(
    scene: Scene, caplog: pytest.LogCaptureFixture
) -> None:
    scene.broken["v1"] = "no such precision here"
    scene.final.add("v1")
    scene.want("v1")
    await scene.until(lambda: scene.state("v1") == "failed")
    (failed,) = scene.board.status.failed
    assert (failed.reason, failed.retry_at) == ("no such precision here", None)
    assert "model v1 failed: no such precision here; it is not tried again by itself" in caplog.messages
    await asyncio.sleep(0.7)  # longer than the first pause of what is tried again
    assert scene.board.status.swaps == {"failure": 1}
    scene.broken.clear()
    scene.fleet.nudge()
    await scene.serves("v1")


async def test_another_version_wanted_while_one_loads_takes_its_place(scene: Scene) -> None:
    scene.start_gate.clear()
    scene.want("v1")
    await scene.until(lambda: scene.state("v1") == "loading")
    scene.want("v2")
    scene.start_gate.set()
    await scene.serves("v2")
    assert scene.routes == ["v2"]
    assert scene.state("v1") == "unloaded"


async def test_a_version_wanted_back_in_the_middle_of_a_switch_serves_in_the_end(scene: Scene) -> None:
    scene.want("v1")
    await scene.serves("v1")
    scene.route_gate.clear()
    scene.want("v2")
    await scene.until(lambda: scene.routes == ["v1", "v2"])
    scene.want("v1")
    assert scene.board.serving_version is None  # one worker may ask v1 already and another still v2
    scene.route_gate.set()
    await scene.until(lambda: scene.routes == ["v1", "v2", "v1"])
    await scene.until(lambda: scene.running == ["v1"])
    assert scene.board.serving_version == "v1"


async def test_a_dead_engine_has_a_successor_of_the_same_version_without_a_fetch(scene: Scene) -> None:
    scene.want("v1")
    await scene.serves("v1")
    scene.started[0].child.signal(signal.SIGKILL)
    await scene.until(lambda: scene.routes == ["v1", "v1"])
    assert (scene.running, scene.fetched, scene.board.status.engine_restarts) == (["v1"], ["v1"], 1)
    assert scene.board.status.swaps == {"success": 1}


async def test_an_engine_that_cannot_be_replaced_is_said_to_be_gone_and_its_files_are_checked(scene: Scene) -> None:
    scene.want("v1")
    await scene.serves("v1")
    scene.broken["v1"] = "no memory"
    scene.started[0].child.signal(signal.SIGKILL)
    await scene.until(lambda: scene.routes == ["v1", None])
    assert [model.reason for model in scene.board.status.failed] == ["no memory"]
    assert scene.board.serving_version is None
    await scene.until(lambda: scene.fetched == ["v1", "v1"])
    del scene.broken["v1"]
    await scene.until(lambda: scene.routes == ["v1", None, "v1"])
    await scene.until(lambda: not scene.board.status.failed)
    await scene.serves("v1")
    assert scene.board.status.swaps == {"success": 1}


async def test_a_version_that_takes_over_while_a_successor_starts_wins(scene: Scene) -> None:
    scene.want("v1")
    await scene.serves("v1")
    scene.held["v1"] = asyncio.Event()
    scene.started[0].child.signal(signal.SIGKILL)
    await scene.until(lambda: scene.board.status.engine_restarts == 1)
    scene.want("v2")
    await scene.serves("v2")
    await scene.until(lambda: not scene.starting)
    assert (scene.running, scene.routes) == (["v2"], ["v1", "v2"])


async def test_a_version_no_longer_wanted_when_its_turn_to_switch_comes_never_serves(scene: Scene) -> None:
    scene.want("v1")
    await scene.serves("v1")
    scene.route_gate.clear()
    scene.started[0].child.signal(signal.SIGKILL)
    await scene.until(lambda: scene.routes == ["v1", "v1"])  # the successor waits for acknowledgements
    scene.want("v2")
    await scene.until(lambda: len(scene.started) == 3)
    await asyncio.sleep(0.05)
    scene.want("v1")
    scene.route_gate.set()
    await scene.until(lambda: scene.running == ["v1"])
    assert scene.routes == ["v1", "v1"]


async def test_the_end_in_the_middle_of_a_start_leaves_no_process(scene: Scene) -> None:
    scene.want("v1")
    await scene.serves("v1")
    scene.start_gate.clear()
    scene.want("v2")
    await scene.until(lambda: scene.state("v2") == "loading")
    await scene.fleet.stop()
    assert not scene.running


async def test_staleness_counts_from_the_moment_redis_and_the_replica_part(scene: Scene) -> None:
    scene.board.wanted("v1", 1)
    scene.board.redis("ok")
    scene.want("v1")
    await scene.serves("v1")
    assert scene.board.status.stale_since is None
    scene.board.redis("unreachable", "Redis is off")
    since = scene.board.status.stale_since
    scene.board.restart()
    assert since is not None
    assert scene.board.status.stale_since == since
    scene.board.redis("ok")
    assert scene.board.status.staleness_s == 0
    scene.board.wanted("v2", 2)
    assert scene.board.status.stale_since is not None


async def test_the_last_line_of_a_child_is_its_reason(tmp_path: Path) -> None:
    environment = os.environ | {METRICS_FOLDER: str(tmp_path)}
    child = await Child.spawn(["service.engine", "--artifact", "/nowhere", "--socket", "x" * 200], environment)
    assert "socket path" in child.last_sentence(await child.wait())


@pytest.mark.parametrize("line", ["INFO service.engine: warm", '{"time": "now", "level": "INFO", "message": "warm"}'])
async def test_what_a_child_logged_is_no_reason(tmp_path: Path, line: str) -> None:
    (tmp_path / "chatty.py").write_text(f"import sys; print({line!r}, file=sys.stderr); sys.exit(1)")
    child = await Child.spawn(["chatty"], os.environ | {METRICS_FOLDER: str(tmp_path), "PYTHONPATH": str(tmp_path)})
    assert child.last_sentence(await child.wait()) == "it ended with exit code 1"


async def test_the_death_of_a_child_is_told_also_where_nothing_can_be_written(tmp_path: Path) -> None:
    metrics = tmp_path / "metrics"
    child = await Child.spawn(["tests.service.supervisor.sleeper"], os.environ | {METRICS_FOLDER: str(metrics)})
    assert await child.stop(60.0) in (0, -signal.SIGTERM)
    assert not child.running


async def test_a_child_that_does_not_listen_to_sigterm_is_killed(tmp_path: Path) -> None:
    lines = [
        "import signal, sys, time",
        "signal.signal(signal.SIGTERM, signal.SIG_IGN)",
        "print('deaf', file=sys.stderr, flush=True)",
        "time.sleep(1000)",
    ]
    (tmp_path / "stubborn.py").write_text("\n".join(lines))
    child = await Child.spawn(["stubborn"], os.environ | {METRICS_FOLDER: str(tmp_path), "PYTHONPATH": str(tmp_path)})
    while child.last_words != "deaf":
        await asyncio.sleep(0.01)
    assert await child.stop(0.1) == -signal.SIGKILL


async def test_every_end_of_an_engine_and_of_its_successors_is_told(scene: Scene) -> None:
    deaths: list[str] = []
    scene.fleet.on_death = deaths.append
    scene.want("v1")
    await scene.serves("v1")
    scene.broken["v1"] = "no memory"
    scene.started[0].child.signal(signal.SIGKILL)
    await scene.until(lambda: deaths == ["v1", "v1"])
    scene.fleet.nudge()
    await scene.until(lambda: len(deaths) >= 3)
