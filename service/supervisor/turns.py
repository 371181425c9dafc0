"""Whose turn it is to start an engine: loading takes the processor from the engine that serves."""

import asyncio
from collections.abc import Callable
from typing import Protocol


class Starter(Protocol):
    """Who wants to start an engine."""

    urgent: bool  # its version is to serve

    def give_way(self) -> None:
        """Break the start off and come again."""


class Turns:
    """One start at a time, first what is to serve; while nothing serves, that waits for nothing at all."""

    def __init__(self, serves: Callable[[], bool]) -> None:
        self.serves = serves  # whether anything does
        self._starting: list[Starter] = []
        self._waiting: list[Starter] = []
        self._moved = asyncio.Event()

    async def take(self, starter: Starter) -> None:
        """Returns when `starter` may start; `leave` ends its turn."""
        self._waiting.append(starter)
        self.move()
        try:
            while not self._is_next(starter):
                await self._moved.wait()
            self._starting.append(starter)
        finally:
            self._waiting.remove(starter)
            self._wake()

    def leave(self, starter: Starter) -> None:
        self._starting.remove(starter)
        self.move()

    def move(self) -> None:
        """Looks again whose turn it is; to be called when anyone's urgency, or what serves, has changed."""
        if any(starter.urgent for starter in self._waiting):
            for starter in self._starting:
                if not starter.urgent:
                    starter.give_way()
        self._wake()

    def _wake(self) -> None:
        self._moved.set()
        self._moved = asyncio.Event()

    def _is_next(self, starter: Starter) -> bool:
        if starter.urgent and not self.serves():
            return True
        first = next((one for one in self._waiting if one.urgent), self._waiting[0])
        return not self._starting and first is starter
