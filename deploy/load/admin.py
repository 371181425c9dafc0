"""What an operator does to a service while it is loaded."""

import asyncio
import time
from collections.abc import Coroutine, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

import httpx

from ..errors import MisuseError, RefusedError

_SWITCH_LIMIT_S: Final = 120
_LOOK_S: Final = 0.1
_OBEY_MS: Final = 10_000
_WRONG_USE: Final = frozenset({400, 401, 403, 404, 409, 422})


async def put_back(work: Coroutine[Any, Any, None]) -> None:
    """Does `work`, which undoes what a test changed, to its end; a cancellation meanwhile comes through after it."""
    task = asyncio.create_task(work)
    try:
        await asyncio.shield(task)
    except asyncio.CancelledError:
        await task
        raise


@dataclass(frozen=True)
class Admin:
    """Raises RefusedError where the service refuses, httpx.HTTPError where it fails."""

    client: httpx.AsyncClient

    async def serving(self) -> str | None:
        """The version that answers now."""
        version: str | None = (await self._call("GET", "/health/ready"))["model_version"]
        return version

    async def activate(self, version: str) -> None:
        """Returns once every replica answers with it."""
        await self._call("POST", f"/models/{version}/activate", {"wait_s": _SWITCH_LIMIT_S})

    async def traffic(self) -> dict[str, Any]:
        """The canary and the shadow, as `set_traffic` takes them."""
        found = await self._call("GET", "/traffic")
        return {"canary": found["canary"], "shadow": found["shadow"]}

    async def set_traffic(self, traffic: Mapping[str, Any]) -> None:
        """Returns once the service that is asked has the canary; raises TimeoutError."""
        await self._call("PUT", "/traffic", dict(traffic))
        wanted, deadline = (traffic["canary"] or {}).get("version"), time.monotonic() + _SWITCH_LIMIT_S
        while (await self._call("GET", "/health/ready"))["canary_version"] != wanted:
            if time.monotonic() > deadline:
                raise TimeoutError(f"{wanted} is no canary after {_SWITCH_LIMIT_S} s")
            await asyncio.sleep(_LOOK_S)

    async def set_available(self, item_id: str, available: bool) -> int:
        """The catalog revision that obeys, once the service that is asked does."""
        return await self._change("PATCH", {"items": [{"item_id": item_id, "available": available}]})

    async def add(self, item: Mapping[str, Any]) -> int:
        """As `set_available`. Raises MisuseError where the model that serves cannot recommend the item."""
        answer = await self._call("POST", "/catalog/items", {"items": [{"item": dict(item)}], "wait_ms": _OBEY_MS})
        if answer["unplaced"]:
            raise MisuseError(f"the service cannot recommend an added item: {answer['unplaced']}")
        return int(answer["catalog_revision"])

    async def remove(self, item_ids: Sequence[str]) -> int:
        return await self._change("DELETE", {"item_ids": list(item_ids)})

    async def metadata(self, item_id: str) -> dict[str, Any]:
        found: dict[str, Any] = (await self._call("GET", f"/items/{item_id}"))["metadata"]
        return found

    async def _change(self, method: str, body: Mapping[str, Any]) -> int:
        answer = await self._call(method, "/catalog/items", {**body, "wait_ms": _OBEY_MS})
        return int(answer["catalog_revision"])

    async def _call(self, method: str, path: str, body: Mapping[str, Any] | None = None) -> dict[str, Any]:
        answer = await self.client.request(method, path, json=body, timeout=_SWITCH_LIMIT_S + 5)
        if answer.status_code in _WRONG_USE:
            raise RefusedError(f"{method} {path} is {answer.status_code}: {answer.json()['detail']}")
        found: dict[str, Any] = answer.raise_for_status().json()
        return found
