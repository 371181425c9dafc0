"""A server that only answers: what the clients reach against it is what they can do at all.

    python -m deploy.load.echo 10 0

Reads each request whole and sends an answer as long as one of the service with that many items, after so many
milliseconds. It prints its address
and ends when its standard input does, so it cannot outlive whoever started it.
"""

import asyncio
import json
import socket
import subprocess
import sys
import threading
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import uvicorn


class Echo:
    """An ASGI application."""

    def __init__(self, items: int, pause_ms: int) -> None:
        self._pause_s = pause_ms / 1000
        self._content = json.dumps(_answer(items)).encode()
        length = str(len(self._content)).encode()
        self._headers = [(b"content-type", b"application/json"), (b"content-length", length)]

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        if scope["type"] != "http":
            return
        while (await receive()).get("more_body"):
            continue
        if self._pause_s:
            await asyncio.sleep(self._pause_s)
        await send({"type": "http.response.start", "status": 200, "headers": self._headers})
        await send({"type": "http.response.body", "body": self._content})


def main(items: int, pause_ms: int) -> None:
    """Serves until standard input ends."""
    with socket.create_server(("127.0.0.1", 0)) as listening:
        quick = {"loop": "uvloop", "http": "httptools", "access_log": False, "log_level": "warning", "lifespan": "off"}
        config = uvicorn.Config(Echo(items, pause_ms), **quick)  # type: ignore[arg-type]
        server = uvicorn.Server(config)
        threading.Thread(target=_end_with_input, args=(server,), daemon=True).start()
        print(f"http://127.0.0.1:{listening.getsockname()[1]}", flush=True)
        server.run(sockets=[listening])


@asynccontextmanager
async def echo_server(items: int, pause_ms: int = 0) -> AsyncIterator[str]:
    """Its address, while the block lasts."""
    command = [sys.executable, "-m", "deploy.load.echo", str(items), str(pause_ms)]
    process = subprocess.Popen(
        command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, start_new_session=True
    )
    assert process.stdin
    assert process.stdout
    try:
        yield (await asyncio.to_thread(process.stdout.readline)).strip()
    finally:
        process.stdin.close()
        process.stdout.close()
        await asyncio.to_thread(process.wait)


def _end_with_input(server: uvicorn.Server) -> None:
    sys.stdin.read()
    server.should_exit = True


def _answer(items: int) -> dict[str, Any]:
    shown = [{"rank": rank, "item_id": f"item-{rank:05}", "score": 16.625 - rank} for rank in range(1, items + 1)]
    return {
        "request_id": "0" * 32, "model_version": "echo", "catalog_revision": 0, "items": shown, "exhausted": False,
        "source": "model", "history": {"used": 20, "unknown": 0, "truncated": 0}, "warnings": [],
    }  # fmt: skip


if __name__ == "__main__":
    main(int(sys.argv[1]), int(sys.argv[2]))
