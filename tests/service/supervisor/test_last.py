"""What was served last survives on the disk."""

import errno
from collections.abc import Iterator
from pathlib import Path

import pytest

from service.catalog.records import ItemRecord
from service.errors import ServiceError
from service.store import Canary, Connection, Deployment
from service.supervisor.last import (
    CATALOG_FILE,
    FILE,
    LastCatalog,
    _replace,
    last_folder,
    remember,
    remember_catalog,
    remembered,
    remembered_catalog,
)


def test_a_deployment_comes_back_as_it_was(tmp_path: Path) -> None:
    deployment = Deployment("v2", 7, ("v1",), ("v3",), Canary("v4", 2.5), "v5", "activate", 12.5)
    remember(tmp_path, Deployment("v1", 1))
    remember(tmp_path, deployment)
    assert remembered(tmp_path) == deployment
    assert [path.name for path in tmp_path.iterdir()] == [FILE]


def test_a_catalog_comes_back_as_it_was(tmp_path: Path) -> None:
    record = ItemRecord("fresh", 3, item={"item_id": "fresh"}, embeddings={"minilm-1": b"\0\1"})
    catalog = LastCatalog(3, "era", [record, ItemRecord("item-1", 2, available=False)], {"v1": {"fresh": (1, 0)}})
    remember_catalog(tmp_path, catalog)
    assert remembered_catalog(tmp_path) == catalog
    assert remembered_catalog(tmp_path / "nowhere") is None


def test_a_large_catalog_comes_back_whole_or_not_at_all(tmp_path: Path) -> None:
    catalog = LastCatalog(9, "era", [ItemRecord(f"item-{number}", 9) for number in range(4500)], {"v1": {"a": (1,)}})
    remember_catalog(tmp_path, catalog)
    assert remembered_catalog(tmp_path) == catalog
    body = (tmp_path / CATALOG_FILE).read_bytes()
    first_part = body[: 4 + int.from_bytes(body[:4], "little")]
    for damaged in (b"", b"damaged", bytes(len(body)), body[:-1], first_part, body.replace(b"item-1234", b"item-1235")):
        (tmp_path / CATALOG_FILE).write_bytes(damaged)
        with pytest.raises(ServiceError, match="what is hidden is not known here"):
            remembered_catalog(tmp_path)


def test_a_catalog_that_the_disk_does_not_give_back_is_not_taken_for_an_empty_one(tmp_path: Path) -> None:
    (tmp_path / CATALOG_FILE).mkdir()
    with pytest.raises(ServiceError, match=f"{CATALOG_FILE} cannot be read"):
        remembered_catalog(tmp_path)


def test_nothing_is_remembered_where_nothing_was_served_or_the_file_is_damaged(tmp_path: Path) -> None:
    assert remembered(tmp_path) is None
    (tmp_path / FILE).write_text('{"version": 1')
    assert remembered(tmp_path) is None


def test_one_damaged_byte_of_a_text_is_damage_like_any_other(tmp_path: Path) -> None:
    remember(tmp_path, Deployment("v1", 1))
    whole = (tmp_path / FILE).read_bytes()
    (tmp_path / FILE).write_bytes(whole.replace(b"v1", b"\xff1"))
    assert remembered(tmp_path) is None


def test_a_disk_that_cannot_be_written_is_no_fault(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    remember(tmp_path / "file" / "last", Deployment("v1", 1))
    assert remembered(tmp_path / "file" / "last") is None


def test_a_full_disk_leaves_no_half_written_file(tmp_path: Path) -> None:
    remember(tmp_path, Deployment("v1", 1))

    def pieces() -> Iterator[bytes]:
        yield b"half"
        raise OSError(errno.ENOSPC, "No space left on device")

    _replace(tmp_path / FILE, pieces())
    assert [path.name for path in tmp_path.iterdir()] == [FILE]
    assert remembered(tmp_path) == Deployment("v1", 1)


def test_each_redis_and_namespace_has_its_own(tmp_path: Path) -> None:
    folders = {
        last_folder(tmp_path, Connection(url) if url else None, namespace)
        for url, namespace in (
            ("redis://a:1", "shop"),
            ("redis://b:1", "shop"),
            ("redis://a:1", "other"),
            (None, "shop"),
        )
    }
    assert len(folders) == 4
    assert last_folder(tmp_path, Connection("redis://:secret@a:1"), "shop") in folders
