"""What is served is written down, and a large catalog not too often."""

import asyncio
from collections.abc import Iterator
from itertools import count
from pathlib import Path

from service.catalog.records import ItemRecord
from service.store import Deployment
from service.supervisor.last import CATALOG_FILE, LastCatalog, remembered_catalog
from service.supervisor.scribe import Scribe

CATALOG = LastCatalog(3, "era", [ItemRecord("item-1", 3, available=False)])


def waits_s(scribe: Scribe) -> float:
    """Until a change of now is written down."""
    scribe.catalog_changed()
    assert scribe._later is not None
    return scribe._later.when() - asyncio.get_running_loop().time()


def next_wait_s(folder: Path, clock: Iterator[float]) -> float:
    """After a writing that began and ended by `clock`."""

    async def written() -> float:
        scribe = Scribe(folder, lambda: CATALOG, lambda: next(clock))
        assert waits_s(scribe) <= 10.0
        scribe.catalog_now()
        await asyncio.wrap_future(scribe._thread.submit(lambda: None))
        wait_s = waits_s(scribe)
        scribe.close()
        return wait_s

    return asyncio.run(written())


def test_a_catalog_that_takes_long_to_write_is_written_seldom(tmp_path: Path) -> None:
    assert next_wait_s(tmp_path, count(0.0, 0.1)) <= 10.0
    assert next_wait_s(tmp_path, count(0.0, 5.0)) > 50.0


def test_what_waits_is_written_when_it_is_closed(tmp_path: Path) -> None:
    async def closed() -> None:
        scribe = Scribe(tmp_path, lambda: CATALOG)
        scribe.catalog_changed()
        assert not (tmp_path / CATALOG_FILE).exists()
        scribe.close()

    asyncio.run(closed())
    assert remembered_catalog(tmp_path) == CATALOG


def test_no_deployment_is_on_the_disk_before_what_it_hides(tmp_path: Path) -> None:
    async def served() -> None:
        scribe = Scribe(tmp_path, lambda: CATALOG)
        scribe.catalog_changed()
        scribe.deployment(Deployment("v1", 1))
        await asyncio.wrap_future(scribe._thread.submit(lambda: None))
        assert remembered_catalog(tmp_path) == CATALOG
        scribe.close()

    asyncio.run(served())
