"""Which engine a query goes to: by name, as a canary's user, to a shadow too, or to the active version."""

import asyncio
import time
from pathlib import Path

import msgspec
import pytest
from prometheus_client import REGISTRY

from service.api.canary import chosen, sticky_key
from service.api.control import Counts, ModelState, Routes, Status
from service.api.engine_client import Router
from service.api.shadow import overlap
from service.errors import DeadlineExceeded, NotLoaded, NotReady, ServiceError
from service.frames import Answer, Query

from .little_engine import LittleEngine, answer, deadly, engine, failing, silent

pytestmark = pytest.mark.anyio

ALWAYS, PERCENT = b"anybody", 100.0


def query(router: Router, *history: str) -> Query:
    return Query(router.next_id(), list(history) or ["a"], 2, time.monotonic() + 30.0)


def routes(active: LittleEngine | None, *others: LittleEngine, shadow: LittleEngine | None = None) -> Routes:
    return Routes(
        1,
        active.route if active else None,
        others=tuple(other.route for other in others),
        shadow=shadow.route if shadow else None,
    )


def canary(active: LittleEngine, *others: LittleEngine, percent: float = PERCENT) -> Routes:
    return Routes(1, active.route, tuple(other.route for other in others), canary="v2", canary_percent=percent)


def shadow_results(result: str) -> float:
    return REGISTRY.get_sample_value("prorec_shadow_requests_total", {"result": result}) or 0.0


# ---- by name


async def test_a_version_asked_for_by_name_answers(router: Router, folder: Path) -> None:
    async with engine(folder) as active, engine(folder, version="v2") as other:
        await router.switch(routes(active, other))
        assert (await router.ask(query(router), version="v2")).info.model_version == "v2"
        assert (await router.ask(query(router), version="v1")).info.model_version == "v1"
        assert (await router.ask(query(router))).info.model_version == "v1"
        info = router.info_of("v2")
        assert info is not None
        assert info.model_version == "v2"


async def test_a_version_that_is_not_loaded_is_refused_by_name(router: Router, folder: Path) -> None:
    async with engine(folder) as active:
        await router.switch(routes(active))
        with pytest.raises(NotLoaded, match="v2"):
            await router.ask(query(router), version="v2")
    assert router.info_of("v2") is None


async def test_a_version_whose_engine_has_died_is_not_waited_for_by_name(router: Router, folder: Path) -> None:
    async with engine(folder) as active, engine(folder, deadly, "v2") as other:
        await router.switch(routes(active, other))
        with pytest.raises(NotReady, match="v2"):
            await router.ask(query(router), version="v2")
        assert (await router.ask(query(router))).info.model_version == "v1"
        await router.switch(routes(active))
        router.status = Status(models=(ModelState("v2", "restarting", 0.0),))
        with pytest.raises(NotReady, match="v2"):
            await router.ask(query(router), version="v2")


async def test_a_switch_keeps_connections_that_stay(router: Router, folder: Path) -> None:
    async with engine(folder) as active, engine(folder, silent, "v2") as other, engine(folder, version="v3") as third:
        await router.switch(routes(active, other))
        asked = asyncio.create_task(router.ask(query(router), version="v2"))
        await other.wait_for(lambda: bool(other.queries))
        await router.switch(routes(third, other))
        other.reply(answer(other.queries[0]))
        assert (await asked).info.model_version == "v2"


async def test_a_connection_that_breaks_is_made_again_while_its_engine_lives(router: Router, folder: Path) -> None:
    async with engine(folder) as active, engine(folder, version="v2") as reader:
        await router.switch(Routes(1, active.route, reader=reader.route))
        async with asyncio.timeout(10):
            await asyncio.gather(active.break_off(), reader.break_off())
            while router.ready:
                await asyncio.sleep(0)
        patient = Query(router.next_id(), ["a"], 2, time.monotonic() + 5.0)
        served = await router.ask(patient)
        assert served.info.model_version == "v1"
        async with asyncio.timeout(10):
            while router.reader is None:
                await asyncio.sleep(0.01)
    assert len(active.queries) == 1


# ---- canary


async def test_an_engine_that_cannot_be_reached_at_a_switch_is_tried_again(router: Router, folder: Path) -> None:
    """As where more workers come at once than its socket lets wait."""
    async with engine(folder) as active:
        late = LittleEngine(folder / "late.sock", answer, "v2")
        await router.switch(routes(late, active))
        assert not router.ready
        await late.start()
        assert (await router.ask(query(router))).info.model_version == "v2"
        late.die()
        await late.closed()


async def test_a_canary_gets_those_who_are_chosen_and_nobody_without_a_key(router: Router, folder: Path) -> None:
    async with engine(folder) as active, engine(folder, version="v2") as other:
        await router.switch(canary(active, other))
        assert (await router.ask(query(router), sticky_key=ALWAYS)).info.model_version == "v2"
        assert (await router.ask(query(router))).info.model_version == "v1"
        await router.switch(canary(active, other, percent=0.0))
        assert (await router.ask(query(router), sticky_key=ALWAYS)).info.model_version == "v1"


async def test_without_its_canary_the_active_version_answers_and_says_so(router: Router, folder: Path) -> None:
    async with engine(folder) as active:
        await router.switch(canary(active))
        served = await router.ask(query(router), sticky_key=ALWAYS)
    assert served.info.model_version == "v1"
    assert "canary v2" in served.answer.warnings[0]


async def test_what_only_the_active_version_can_answer_does_not_go_to_the_canary(router: Router, folder: Path) -> None:
    async with engine(folder) as active, engine(folder, version="v2") as other:
        narrow = msgspec.structs.replace(other.route.info, beam_widths=[4])
        route = msgspec.structs.replace(other.route, info=narrow)
        await router.switch(Routes(1, active.route, (route,), canary="v2", canary_percent=PERCENT))
        wide = msgspec.structs.replace(query(router), k=5)
        served = await router.ask(wide, sticky_key=ALWAYS)
        assert served.info.model_version == "v1"
        assert "no beam that wide" in served.answer.warnings[0]
        assert (await router.ask(query(router), sticky_key=ALWAYS)).info.model_version == "v2"


async def test_a_query_on_which_a_canary_died_is_answered_by_the_active_version(router: Router, folder: Path) -> None:
    async with engine(folder) as active, engine(folder, deadly, "v2") as other:
        await router.switch(canary(active, other))
        served = await router.ask(query(router), sticky_key=ALWAYS)
    assert served.info.model_version == "v1"
    assert served.answer.warnings


def test_a_share_is_the_same_users_everywhere_and_grows() -> None:
    keys = [sticky_key(f"user-{number}", []) for number in range(20_000)]
    small = {key for key in keys if chosen(key, 5.0)}
    large = {key for key in keys if chosen(key, 20.0)}
    assert small < large
    assert len(small) == pytest.approx(0.05 * len(keys), rel=0.15)
    assert len(large) == pytest.approx(0.2 * len(keys), rel=0.1)
    assert chosen(sticky_key("user-7", []), 100.0)


def test_the_place_of_a_user_is_fixed_for_good() -> None:
    """Other programs, other replicas and later releases must come to the same."""
    in_share = [number for number in range(60) if chosen(sticky_key(f"user-{number}", ["a"]), 5.0)]
    assert in_share == [0, 4, 19, 31]


def test_without_a_user_the_history_decides() -> None:
    assert sticky_key(None, ["a", "b"]) == sticky_key(None, ["a", "b"])
    assert len({sticky_key(None, ["a", "b"]), sticky_key(None, ["ab"]), sticky_key("a", ["b"])}) == 3


# ---- shadow


async def test_a_shadow_is_asked_what_the_active_version_was_asked_and_compared(router: Router, folder: Path) -> None:
    def half(asked: Query) -> Answer:
        return answer(asked, item_ids=["a-0", "another"])

    before = shadow_results("compared")
    async with engine(folder) as active, engine(folder, half, "v2") as shadow:
        await router.switch(routes(active, shadow=shadow))
        await router.ask(query(router, "a"))
        await shadow.wait_for(lambda: bool(shadow.queries))
        while shadow_results("compared") == before:
            await asyncio.sleep(0.01)
    assert shadow.queries[0].history == ["a"]


async def test_a_shadow_that_never_answers_holds_nothing_up_and_gets_one_query(router: Router, folder: Path) -> None:
    before = shadow_results("dropped")
    async with engine(folder) as active, engine(folder, silent, "v2") as shadow:
        await router.switch(routes(active, shadow=shadow))
        await router.ask(query(router))
        await shadow.wait_for(lambda: bool(shadow.queries))
        await router.ask(query(router))
        assert len(shadow.queries) == 1
    assert shadow_results("dropped") == before + 1


async def test_a_shadow_is_spared_while_the_engine_has_a_queue(router: Router, folder: Path) -> None:
    before = shadow_results("dropped")
    async with engine(folder, lambda asked: answer(asked, waiting=1)) as active, engine(folder) as shadow:
        await router.switch(routes(active, shadow=shadow))
        await router.ask(query(router))
    assert shadow_results("dropped") == before + 1
    assert not shadow.queries


async def test_a_shadow_is_spared_while_the_worker_has_another_query(router: Router, folder: Path) -> None:
    before = shadow_results("dropped")
    async with engine(folder) as active, engine(folder, silent, "v3") as slow, engine(folder) as shadow:
        await router.switch(routes(active, slow, shadow=shadow))
        asked = asyncio.create_task(router.ask(query(router), version="v3"))
        await slow.wait_for(lambda: bool(slow.queries))
        await router.ask(query(router))
        slow.reply(answer(slow.queries[0]))
        await asked
    assert shadow_results("dropped") == before + 1
    assert not shadow.queries


async def test_a_shadow_rests_after_its_work(router: Router, folder: Path) -> None:
    compared, dropped = shadow_results("compared"), shadow_results("dropped")
    async with engine(folder) as active, engine(folder, silent, "v2") as shadow:
        await router.switch(routes(active, shadow=shadow))
        await router.ask(query(router))
        await shadow.wait_for(lambda: bool(shadow.queries))
        await asyncio.sleep(0.5)  # so it rests for two seconds
        shadow.reply(answer(shadow.queries[0]))
        while shadow_results("compared") == compared:
            await asyncio.sleep(0.01)
        await router.ask(query(router))
        assert len(shadow.queries) == 1
    assert shadow_results("dropped") == dropped + 1


async def test_a_shadow_that_fails_is_only_counted(router: Router, folder: Path) -> None:
    before = shadow_results("failed")
    async with engine(folder) as active, engine(folder, deadly, "v2") as shadow:
        await router.switch(routes(active, shadow=shadow))
        assert (await router.ask(query(router))).info.model_version == "v1"
        while shadow_results("failed") == before:
            await asyncio.sleep(0.01)


def test_overlap_is_the_share_of_what_was_served() -> None:
    assert overlap(["a", "b", "c", "d"], ["d", "x", "a"]) == 0.5


# ---- counts


async def test_answers_errors_and_short_answers_are_counted_by_version(router: Router, folder: Path) -> None:
    short = engine(folder, lambda asked: answer(asked, exhausted=True), "v2")
    async with engine(folder, failing("engine_failed")) as active, short as other:
        await router.switch(routes(active, other))
        with pytest.raises(ServiceError):
            await router.ask(query(router))
        await router.ask(query(router), version="v2")
        active.behaviour = failing("bad_k")
        with pytest.raises(ServiceError):
            await router.ask(query(router))
        with pytest.raises(NotLoaded):
            await router.ask(query(router), version="v9")
    counts = {one.version: one for one in router.tally.take()}
    assert counts == {"v1": Counts("v1", 2, 1, 0), "v2": Counts("v2", 1, 0, 1)}
    assert router.tally.take() == []


async def test_a_client_that_hardly_waits_says_nothing_about_a_version(router: Router, folder: Path) -> None:
    async with engine(folder, silent) as active:
        await router.switch(routes(active))
        for patience_s in (0.001, 0.15):
            hasty = Query(router.next_id(), ["a"], 2, time.monotonic() + patience_s)
            with pytest.raises(DeadlineExceeded):
                await router.ask(hasty)
    assert router.tally.take() == [Counts("v1", 1, 1, 0)]
