import asyncio
from collections.abc import Awaitable, Callable

import pytest

from service.engine.slots import Slot, Slots
from service.errors import Overloaded


class Compiler:
    """Remembers what was compiled where; `gate` holds compilations."""

    def __init__(self) -> None:
        self.done: list[tuple[bytes, int]] = []
        self.gate = asyncio.Event()
        self.gate.set()

    def of(self, key: bytes) -> Callable[[int], Awaitable[None]]:
        async def compile_into(number: int) -> None:
            await self.gate.wait()
            if key.startswith(b"bad"):
                raise ValueError(key)
            self.done.append((key, number))

        return compile_into


def play(story: Callable[[Slots, Compiler], Awaitable[None]], count: int = 3, queue_limit: int = 8) -> None:
    async def run() -> None:
        await story(Slots(count, queue_limit), Compiler())

    asyncio.run(run())


async def acquire(slots: Slots, compiler: Compiler, key: bytes) -> Slot:
    return await slots.acquire(key, compiler.of(key))


async def settle() -> None:
    for _ in range(5):
        await asyncio.sleep(0)


def test_a_filter_is_compiled_once_for_all_who_wait() -> None:
    async def story(slots: Slots, compiler: Compiler) -> None:
        compiler.gate.clear()
        asking = [asyncio.create_task(acquire(slots, compiler, b"a")) for _ in range(5)]
        await settle()
        assert slots.pin(b"a") is None
        compiler.gate.set()
        assert {slot.number for slot in await asyncio.gather(*asking)} == {1}
        assert slots.pin(b"a") is not None
        assert compiler.done == [(b"a", 1)]

    play(story)


def test_the_filter_unused_for_longest_makes_room() -> None:
    async def story(slots: Slots, compiler: Compiler) -> None:
        for key in (b"a", b"b"):
            slots.unpin(await acquire(slots, compiler, key))
        pinned = slots.pin(b"a")
        assert pinned is not None
        slots.unpin(pinned)
        assert (await acquire(slots, compiler, b"c")).number == 2
        assert slots.pin(b"a") is pinned
        assert slots.pin(b"b") is None

    play(story)


def test_a_pinned_slot_is_never_given_away() -> None:
    async def story(slots: Slots, compiler: Compiler) -> None:
        first = await acquire(slots, compiler, b"a")
        slots.unpin(await acquire(slots, compiler, b"b"))
        assert (await acquire(slots, compiler, b"c")).number != first.number

    play(story)


def test_when_every_slot_is_pinned_others_wait_in_order() -> None:
    async def story(slots: Slots, compiler: Compiler) -> None:
        held = [await acquire(slots, compiler, key) for key in (b"a", b"b")]
        waiting = [asyncio.create_task(acquire(slots, compiler, key)) for key in (b"c", b"d")]
        await settle()
        slots.unpin(held[0])
        assert (await waiting[0]).number == held[0].number
        await settle()
        assert not waiting[1].done()
        slots.unpin(held[1])
        assert (await waiting[1]).number == held[1].number

    play(story)


def test_filters_that_are_always_in_use_do_not_keep_others_waiting_for_ever() -> None:
    async def story(slots: Slots, compiler: Compiler) -> None:
        held = await acquire(slots, compiler, b"a")
        waiting = asyncio.create_task(acquire(slots, compiler, b"b"))
        await settle()
        assert slots.pin(b"a") is None
        again = asyncio.create_task(acquire(slots, compiler, b"a"))
        slots.unpin(held)
        slot = await waiting
        assert not again.done()
        slots.unpin(slot)
        assert (await again).number == held.number

    play(story, count=2)


def test_one_filter_that_waits_takes_one_slot_however_many_wait_for_it() -> None:
    async def story(slots: Slots, compiler: Compiler) -> None:
        held = [await acquire(slots, compiler, key) for key in (b"a", b"b")]
        waiting = [asyncio.create_task(acquire(slots, compiler, b"c")) for _ in range(3)]
        await settle()
        assert slots.pin(b"b") is held[1]
        assert slots.pin(b"a") is None
        slots.unpin(held[0])
        assert {slot.number for slot in await asyncio.gather(*waiting)} == {held[0].number}

    play(story)


def test_who_gives_up_waiting_passes_the_vacancy_on() -> None:
    async def story(slots: Slots, compiler: Compiler) -> None:
        held = await acquire(slots, compiler, b"a")
        waiting = [asyncio.create_task(acquire(slots, compiler, key)) for key in (b"b", b"c", b"d")]
        await settle()
        waiting[0].cancel()
        await settle()
        slots.unpin(held)
        waiting[1].cancel()  # woken already, and never to run
        assert (await waiting[2]).number == held.number

    play(story, count=2)


def test_two_who_wait_for_one_filter_share_its_slot_and_wake_the_next() -> None:
    async def story(slots: Slots, compiler: Compiler) -> None:
        held = [await acquire(slots, compiler, key) for key in (b"a", b"b")]
        waiting = [asyncio.create_task(acquire(slots, compiler, key)) for key in (b"c", b"c", b"d")]
        await settle()
        slots.unpin(held[0])
        slots.unpin(held[1])
        numbers = [slot.number for slot in await asyncio.gather(*waiting)]
        assert numbers[0] == numbers[1] != numbers[2]

    play(story)


def test_a_filter_that_cannot_be_compiled_leaves_its_slot_to_others() -> None:
    async def story(slots: Slots, compiler: Compiler) -> None:
        for _ in range(3):
            asking = [asyncio.create_task(acquire(slots, compiler, b"bad")) for _ in range(2)]
            outcomes = await asyncio.gather(*asking, return_exceptions=True)
            assert all(isinstance(outcome, ValueError) for outcome in outcomes)
        slots.unpin(await acquire(slots, compiler, b"a"))
        assert (await acquire(slots, compiler, b"b")).number == 1

    play(story, count=2)


def test_a_filter_that_has_just_failed_to_compile_is_not_pinned() -> None:
    async def story(slots: Slots, compiler: Compiler) -> None:
        compiler.gate.clear()
        asking = asyncio.create_task(acquire(slots, compiler, b"bad"))
        await settle()
        compiler.gate.set()
        found = []
        while not asking.done():  # at every step on the way
            found.append(slots.pin(b"bad"))
            await asyncio.sleep(0)
        assert set(found) == {None}
        assert isinstance(asking.exception(), ValueError)

    play(story)


def test_a_compilation_nobody_waits_for_any_more_is_kept() -> None:
    async def story(slots: Slots, compiler: Compiler) -> None:
        compiler.gate.clear()
        asking = asyncio.create_task(acquire(slots, compiler, b"a"))
        await settle()
        asking.cancel()
        with pytest.raises(asyncio.CancelledError):
            await asking
        compiler.gate.set()
        await settle()
        assert slots.pin(b"a") is not None

    play(story, count=2)


def test_beyond_the_limit_who_would_wait_is_refused_and_compiled_filters_are_not() -> None:
    async def story(slots: Slots, compiler: Compiler) -> None:
        slots.unpin(await acquire(slots, compiler, b"a"))
        compiler.gate.clear()
        waiting = [asyncio.create_task(acquire(slots, compiler, key)) for key in (b"b", b"b")]
        await settle()
        refused = [asyncio.create_task(acquire(slots, compiler, key)) for key in (b"b", b"c")]
        await settle()
        for task in refused:
            assert isinstance(task.exception(), Overloaded)
            assert str(task.exception()) == "2 queries are waiting for their filters already"
        assert slots.pin(b"a") is not None
        compiler.gate.set()
        assert {slot.key for slot in await asyncio.gather(*waiting)} == {b"b"}

    play(story, queue_limit=2)


@pytest.mark.parametrize("key", [b"a", b"bad"])
def test_whoever_waits_no_longer_leaves_a_place_to_the_next(key: bytes) -> None:
    async def story(slots: Slots, compiler: Compiler) -> None:
        compiler.gate.clear()
        leaver = asyncio.create_task(acquire(slots, compiler, key))
        await settle()
        leaver.cancel()
        await asyncio.gather(leaver, return_exceptions=True)
        again = asyncio.create_task(acquire(slots, compiler, key))
        await settle()
        compiler.gate.set()
        await asyncio.gather(again, return_exceptions=True)
        assert (await acquire(slots, compiler, b"b")).key == b"b"

    play(story, queue_limit=1)
