"""Versions beside the one that serves: kept warm, loaded by an operator, canary, shadow."""

import asyncio
import signal

import pytest

from service.store import Canary

from .scene import Scene

pytestmark = pytest.mark.anyio


def others(scene: Scene) -> list[str]:
    return [route.info.model_version for route in scene.latest.others]


# ---- kept warm


async def test_going_back_to_a_version_that_was_kept_warm_starts_nothing(warm_scene: Scene) -> None:
    scene = warm_scene
    scene.want("v1")
    await scene.serves("v1")
    scene.want("v2", previous=("v1",))
    await scene.serves("v2")
    assert scene.state("v1") == "ready"
    scene.start_gate.clear()
    scene.want("v1", reason="rollback")
    await scene.serves("v1")
    await scene.until(lambda: scene.running == ["v1"])
    assert scene.routes == ["v1", "v2", "v1"]
    assert len(scene.started) == 2


async def test_only_as_many_versions_stay_as_are_to_be_kept(warm_scene: Scene) -> None:
    scene = warm_scene
    for version, previous in [("v1", ()), ("v2", ("v1",)), ("v3", ("v2", "v1"))]:
        scene.want(version, previous=previous)
        await scene.serves(version)
    await scene.until(lambda: scene.running == ["v2", "v3"])
    await scene.until(lambda: scene.state("v1") == "unloaded")


async def test_where_memory_is_short_the_version_kept_warm_goes(warm_scene: Scene) -> None:
    scene = warm_scene
    scene.want("v1")
    await scene.serves("v1")
    scene.want("v2", previous=("v1",))
    await scene.serves("v2")
    await asyncio.sleep(0.05)
    assert scene.running == ["v1", "v2"]
    scene.memory_percent = 19.0
    await scene.until(lambda: scene.running == ["v2"])
    assert scene.board.serving_version == "v2"


async def test_short_memory_ends_no_version_that_has_another_role(warm_scene: Scene) -> None:
    scene = warm_scene
    scene.memory_percent = 1.0
    scene.want("v1")
    await scene.serves("v1")
    scene.want("v2", previous=("v1",), pinned=("v1",))
    await scene.serves("v2")
    scene.fleet.changed()
    await asyncio.sleep(0.1)
    assert scene.running == ["v1", "v2"]


# ---- loaded, canary, shadow


async def test_a_loaded_version_may_be_asked_by_name_and_serves_at_once_when_it_is_activated(scene: Scene) -> None:
    scene.want("v1", pinned=("v2",))
    await scene.until(lambda: others(scene) == ["v2"])
    assert scene.state("v2") == "ready"
    scene.start_gate.clear()
    scene.want("v2", pinned=("v2",))
    await scene.serves("v2")
    assert scene.routes[-1] == "v2"


async def test_a_version_unloaded_by_its_operator_ends_and_stays_listed(scene: Scene) -> None:
    scene.want("v1", pinned=("v2",))
    await scene.until(lambda: others(scene) == ["v2"])
    scene.want("v1")
    await scene.until(lambda: scene.running == ["v1"])
    await scene.until(lambda: scene.state("v2") == "unloaded")
    assert others(scene) == []


async def test_versions_can_be_loaded_while_none_serves(scene: Scene) -> None:
    scene.want(None, pinned=("v1",))
    await scene.until(lambda: others(scene) == ["v1"])
    assert scene.latest.route is None


async def test_a_canary_gets_its_share_as_soon_as_workers_know(scene: Scene) -> None:
    scene.want("v1", canary=Canary("v2", 5.0))
    await scene.until(lambda: others(scene) == ["v2"])
    assert (scene.latest.canary, scene.latest.canary_percent) == ("v2", 5.0)
    scene.want("v1", canary=Canary("v2", 20.0))
    await scene.until(lambda: scene.latest.canary_percent == 20.0)
    assert len(scene.started) == 2


async def test_a_dead_canary_is_not_asked_until_its_successor_is_ready(scene: Scene) -> None:
    scene.want("v1", canary=Canary("v2", 5.0))
    await scene.until(lambda: others(scene) == ["v2"])
    scene.held["v2"] = asyncio.Event()
    next(engine for engine in scene.started if engine.version == "v2").child.signal(signal.SIGKILL)
    await scene.until(lambda: others(scene) == [])
    assert scene.latest.canary == "v2"
    assert scene.routes == [None, "v1"]
    scene.held["v2"].set()
    await scene.until(lambda: others(scene) == ["v2"])
    assert scene.board.status.swaps == {"success": 1}


async def test_a_loaded_version_that_cannot_start_is_no_failed_swap(scene: Scene) -> None:
    scene.broken["v2"] = "no memory"
    scene.want("v1", pinned=("v2",))
    await scene.serves("v1")
    await scene.until(lambda: scene.state("v2") == "failed")
    assert scene.board.status.swaps == {"success": 1}


async def test_a_shadow_has_an_engine_of_its_own_which_does_nothing_else(scene: Scene) -> None:
    scene.want("v1", shadow="v2")
    await scene.until(lambda: scene.latest.shadow is not None)
    assert others(scene) == []
    scene.start_gate.clear()
    scene.want("v2")
    await scene.until(lambda: scene.starting == ["v2"])
    await scene.until(lambda: scene.running == ["v1"])
    scene.start_gate.set()
    await scene.serves("v2")


# ---- whose turn it is


async def test_while_a_version_serves_others_start_one_after_the_other(scene: Scene) -> None:
    scene.want("v1")
    await scene.serves("v1")
    scene.start_gate.clear()
    scene.want("v1", pinned=("v2", "v3"))
    await scene.until(lambda: scene.starting == ["v2"])
    await asyncio.sleep(0.1)
    assert scene.starting == ["v2"]
    scene.start_gate.set()
    await scene.until(lambda: others(scene) == ["v2", "v3"])


async def test_a_version_that_is_to_serve_goes_before_one_that_starts(scene: Scene) -> None:
    scene.want("v1")
    await scene.serves("v1")
    scene.held["v2"] = asyncio.Event()
    scene.want("v1", pinned=("v2",))
    await scene.until(lambda: scene.starting == ["v2"])
    scene.want("v3", pinned=("v2",))
    await scene.serves("v3")
    scene.held["v2"].set()
    await scene.until(lambda: others(scene) == ["v2"])
    assert not scene.board.status.failed


async def test_the_successor_of_what_serves_waits_for_no_other_start(scene: Scene) -> None:
    scene.want("v1")
    await scene.serves("v1")
    scene.held["v2"] = asyncio.Event()
    scene.want("v2")
    await scene.until(lambda: scene.starting == ["v2"])
    scene.started[0].child.signal(signal.SIGKILL)
    await scene.until(lambda: scene.routes == ["v1", "v1"])
    assert scene.starting == ["v2"]


# ---- what is told of a version


async def test_every_step_of_a_version_is_told_with_its_time(scene: Scene) -> None:
    scene.want("v1")
    await scene.serves("v1")
    scene.want("v2", reason="rollback")
    await scene.until(lambda: scene.state("v1") == "unloaded")
    row = scene.board.status.model("v1")
    assert row is not None
    steps = [step.state for step in row.transitions]
    assert steps == [
        *("registered", "fetching", "verifying", "loading", "ready", "active"),
        *("draining", "unloaded"),
    ]
    times = [step.at for step in row.transitions]
    assert times == sorted(times)
    assert row.transitions[-2].reason == "rollback"
