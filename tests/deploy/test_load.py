"""The load generator sees what goes wrong: it is tested against a small real ASGI application."""

import asyncio
import json
from typing import Any

import httpx
import pytest
from starlette.types import Receive, Scope, Send

from deploy.errors import BenchError
from deploy.load import Load, Phase

BODIES = [{"history": ["a"], "k": 1}, {"history": ["b"], "k": 1}]


class Shop:
    """Answers with the first history item as `version`, until it is told to do worse."""

    def __init__(self) -> None:
        self.version = "one"
        self.status = 200
        self.prefix = ""
        self.pause_s = 0.0

    async def __call__(self, _scope: Scope, receive: Receive, send: Send) -> None:
        body = json.loads((await receive())["body"])
        await asyncio.sleep(self.pause_s)
        answer = {
            "model_version": self.version,
            "items": [{"item_id": f"{self.prefix}{self.version}-{body['history'][0]}"}],
        }
        await send({"type": "http.response.start", "status": self.status, "headers": []})
        await send({"type": "http.response.body", "body": json.dumps(answer).encode()})


def loaded(**worse: Any) -> Phase:
    """A fifth of a second of load, after the shop's good answers are known and it has become `worse`."""

    async def whole() -> Phase:
        shop, phase = Shop(), Phase()
        async with httpx.AsyncClient(transport=httpx.ASGITransport(shop)) as client:
            load = Load(["http://shop"], BODIES)
            for shop.version in ("one", "two"):
                await load.learn(client, shop.version)
            for name, value in worse.items():
                setattr(shop, name, value)
            await load.during(client, 200.0, phase, asyncio.sleep(0.2))
        return phase

    return asyncio.run(whole())


def test_answers_of_the_version_they_name_are_flawless() -> None:
    phase = loaded()
    assert phase.flawless
    assert phase.versions["two"] == phase.answered > 5


def test_an_answer_that_is_not_its_versions_is_mixed() -> None:
    phase = loaded(prefix="other-")
    assert phase.mixed == phase.answered > 5
    assert not phase.flawless


def test_an_error_is_a_failure_and_has_no_latency() -> None:
    phase = loaded(status=503)
    assert phase.failures["503"] > 5
    assert not phase.answered


def test_arrivals_do_not_wait_for_answers() -> None:
    phase = loaded(pause_s=0.5)
    assert phase.answered > 5  # one after the other, a fifth of a second would have seen one
    assert phase.percentile_ms(50) >= 500


def saturation(seconds: float, **worse: Any) -> float:
    async def whole() -> float:
        shop = Shop()
        for name, value in worse.items():
            setattr(shop, name, value)
        async with httpx.AsyncClient(transport=httpx.ASGITransport(shop)) as client:
            return await Load(["http://shop"], BODIES).saturate(client, seconds)

    return asyncio.run(whole())


def test_what_comes_after_the_end_saturates_nothing() -> None:
    assert saturation(0.1, pause_s=0.5) == 0.0


def test_refusals_are_no_rate() -> None:
    with pytest.raises(BenchError, match="503 instead of a recommendation"):
        saturation(60.0, status=503)
