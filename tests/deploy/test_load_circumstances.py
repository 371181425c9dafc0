"""What a load test says of where it was made."""

import asyncio
import platform
from pathlib import Path
from typing import Any

import httpx
import pytest

from deploy.load.circumstances import cpu_model, service

CPUS = "processor\t: 0\nvendor_id\t: Maker\nmodel name\t: Maker One: 2 GHz\n\nprocessor\t: 1\nmodel name\t: Maker Two\n"


@pytest.mark.parametrize(
    ("text", "model"),
    [(CPUS, "Maker One: 2 GHz"), ("Hardware\t: board\n", platform.machine()), (None, platform.machine())],
)
def test_a_processor_is_called_what_the_kernel_calls_it(tmp_path: Path, text: str | None, model: str) -> None:
    path = tmp_path / "cpuinfo"
    if text is not None:
        path.write_text(text)
    assert cpu_model(path) == model


@pytest.mark.parametrize("answer", [b'{"code": "not_found"}', b"<html>", b"[]"])
def test_a_service_that_does_not_say_what_it_is_is_loaded_all_the_same(answer: bytes) -> None:
    async def shop(_scope: Any, _receive: Any, send: Any) -> None:
        await send({"type": "http.response.start", "status": 404, "headers": []})
        await send({"type": "http.response.body", "body": answer})

    async def asked() -> dict[str, Any] | None:
        async with httpx.AsyncClient(transport=httpx.ASGITransport(shop), base_url="http://shop") as client:
            return await service(client)

    assert asyncio.run(asked()) is None
