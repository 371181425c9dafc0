"""An engine without a model, as a program: it keeps what it is told of the catalog, and answers what it knows.

`python -m tests.service.supervisor.little_engine --artifact DIR --socket PATH`; its version is the folder's name. Items
whose id begins with "misfit" get no code; every other gets the first number that is free as far as is known here.
`Lookup` answers with what is known of an item. What holds the item "poison" is refused.
"""

import argparse
import asyncio
import os
import sys
from itertools import count
from pathlib import Path
from typing import Any

import msgspec

from service.frames import (
    Applied,
    Apply,
    Document,
    EngineInfo,
    Failure,
    Lookup,
    Ping,
    Place,
    Placed,
    Reply,
    Request,
    pack,
    read_frame,
)


class LittleEngine:
    def __init__(self, version: str) -> None:
        self.version = version
        self.items: dict[str, Any] = {}
        self.codes: dict[str, list[int]] = {}
        self.messages: list[int] = []  # revisions of what was applied

    def hear(self, message: Request) -> Reply:
        match message:
            case Ping(query_id):
                return EngineInfo(query_id, self.version, "CPUExecutionProvider", 1, [4], 1, 4, 0.0, 0.0, os.getpid())
            case Apply() if all(record.item_id != "poison" for record in message.records):
                return self.apply(message)
            case Place():
                return self.place(message)
            case Lookup(query_id, item_id):
                known = {"item": self.items.get(item_id), "code": self.codes.get(item_id), "messages": self.messages}
                return Document(query_id, msgspec.json.encode(known))
        return Failure(message.query_id, "engine_failed", "a little engine knows no more")

    def apply(self, change: Apply) -> Applied:
        self.messages.append(change.revision)
        self.codes.update(change.codes)
        missing = []
        for record in change.records:
            self.items[record.item_id] = record
            if record.item is not None and not record.removed and record.item_id not in self.codes:
                missing.append(record.item_id)
        return Applied(change.query_id, change.revision, missing)

    def place(self, wish: Place) -> Placed:
        codes, refused = {}, {}
        used = [*self.codes.values(), *wish.taken]
        free = (code for number in count() if (code := [number, 0]) not in used)
        for record in wish.records:
            if record.item_id.startswith("misfit"):
                refused[record.item_id] = "it fits nowhere"
            else:
                codes[record.item_id] = next(free)
        return Placed(wish.query_id, codes, refused)

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while body := await read_frame(reader):
            writer.write(pack(self.hear(msgspec.msgpack.decode(body, type=Request)), msgspec.msgpack.Encoder()))
        writer.close()


async def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--artifact", type=Path)
    parser.add_argument("--socket", type=str)
    options = parser.parse_args()
    for stage in ("verifying", "loading", "warming", "ready"):
        print("stage", stage, flush=True)
    server = await asyncio.start_unix_server(LittleEngine(options.artifact.name).serve, options.socket)
    await asyncio.to_thread(sys.stdin.read)
    server.close()


if __name__ == "__main__":
    asyncio.run(main())
