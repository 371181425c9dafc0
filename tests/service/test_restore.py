"""What Redis has lost comes back from the disk of a replica, and what Redis has stays."""

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import pytest

from service.catalog.records import ItemChange, ItemRecord
from service.errors import StoreError
from service.store import Canary, Deployment, Store
from service.store.catalog import CatalogRecords
from service.supervisor.last import CATALOG_FILE, LastCatalog, last_folder, remember, remember_catalog
from tests.service.plain_artifact import plain_artifact
from tests.service.test_cli import refusal, run

CODES: dict[str, tuple[int, ...]] = {"new": (1, 2), "newer": (0, 3)}


def lose(store: Store) -> None:
    """As a flush does, in one namespace."""
    for key in store.redis.client.scan_iter(f"{{{store.keys.namespace}}}:*"):
        store.redis.client.delete(key)


def serve(store: Store, data_dir: Path, *versions: str) -> Path:
    """What a replica leaves that served all of these, the last of them now, and saw the catalog change."""
    folder = last_folder(data_dir, store.redis, store.keys.namespace)
    for version in versions:
        store.publish(plain_artifact(data_dir / "made", version))
        store.activate(version)
        store.fetch(version, data_dir / "cache" / folder.name)
    store.change_items([ItemChange("a", available=False), ItemChange("b", remove=True)])
    store.change_items([ItemChange(item_id, item={"item_id": item_id}) for item_id in CODES])
    store.change_items([ItemChange("a", attributes={"price": 3})])
    store.place(versions[-1], CODES)
    deployment = store.deployment()
    assert deployment is not None
    remember(folder, deployment)
    known = store.catalog_changes(0)
    remember_catalog(folder, LastCatalog(known.revision, known.era, known.records, {versions[-1]: CODES}))
    return folder


@pytest.fixture
def data_dir(tmp_path: Path) -> Path:
    return tmp_path / "data"


def test_everything_that_was_served_comes_back(store: Store, data_dir: Path) -> None:
    serve(store, data_dir, "v1", "v2", "v3")
    store.pin("v1")
    store.set_traffic(Canary("v2", 12.5), None)
    before, catalog, era = store.deployment(), store.catalog_changes(0), store.catalog_changes(0).era
    assert before is not None
    remember(last_folder(data_dir, store.redis, store.keys.namespace), before)
    lose(store)
    done = run(store, "restore", PROREC_DATA_DIR=str(data_dir))
    assert (done.exit_code, done.stderr) == (0, "")
    assert done.stdout.splitlines() == [
        *(f"{version}: published from the cache" for version in ("v3", "v1", "v2")),
        "catalog: put back as of revision 3, items changed: 4",
        f"deployment: v3 is active (change {before.epoch + 1})",
    ]
    now = store.deployment()
    assert now == Deployment("v3", before.epoch + 1, ("v2", "v1"), ("v1",), Canary("v2", 12.5), None, "restore")
    assert [event.deployment.reason for event in store.events()] == ["restore"]
    assert {info.version for info in store.versions()} == {"v1", "v2", "v3"}
    assert store.fetch("v3", data_dir / "elsewhere").manifest.model_version == "v3"
    again = store.catalog_changes(0)
    assert (again.revision, again.records) == (catalog.revision, catalog.records)
    assert store.catalog_changes(0).era not in ("", era)
    assert store.catalog_page(1, 10).records == [record for record in catalog.records if record.revision > 1]
    assert store.placements("v3") == CODES
    assert store.change_items([ItemChange("c", available=False)]).revision == 4
    held = list(store.redis.client.scan_iter(f"{{{store.keys.namespace}}}:*"))
    assert not [key for key in held if b":restore:" in key or store.redis.client.ttl(key) != -1]


def test_what_redis_has_stays(store: Store, data_dir: Path) -> None:
    serve(store, data_dir, "v1")
    deployment, era = store.deployment(), store.catalog_changes(0).era
    for words in (["restore"], ["restore", "--forget-changes"]):
        done = run(store, *words, PROREC_DATA_DIR=str(data_dir))
        assert done.stdout.splitlines() == [
            "catalog: Redis has revision 3, which stays",
            "deployment: Redis has one, which stays; v1 is active",
        ]
    assert deployment is not None
    assert not store.restore_deployment(replace(deployment, epoch=9))  # where another one came after the look
    assert not store.restore_catalog([], 9)
    assert (store.deployment(), store.catalog_changes(0).era) == (deployment, era)


def test_what_is_missing_is_named_and_the_rest_comes_back(store: Store, data_dir: Path) -> None:
    folder = serve(store, data_dir, "v1", "v2")
    (data_dir / "cache" / folder.name / "v1" / "manifest.json").unlink()
    lose(store)
    done = run(store, "restore", PROREC_DATA_DIR=str(data_dir))
    assert done.exit_code == 0
    assert done.stdout.splitlines()[1] == "v1: not in the cache here; publish its artifact"
    now = store.deployment()
    assert now is not None
    assert (now.version, now.previous) == ("v2", ())


def test_a_name_that_other_bytes_had_since_is_told_and_the_rest_comes_back(store: Store, data_dir: Path) -> None:
    serve(store, data_dir, "v1", "v2")
    lose(store)
    store.publish(plain_artifact(data_dir / "others", "v1", seed=1))
    store.delete("v1")
    done = run(store, "restore", PROREC_DATA_DIR=str(data_dir))
    assert (done.exit_code, done.stderr) == (0, "")
    assert done.stdout.splitlines()[1] == "v1: other bytes than those in the cache here had this name since"
    assert [info.version for info in store.versions()] == ["v2"]


def test_without_what_was_active_nothing_is_activated(store: Store, data_dir: Path) -> None:
    folder = serve(store, data_dir, "v1")
    (data_dir / "cache" / folder.name / "v1" / "manifest.json").unlink()
    lose(store)
    done = run(store, "restore", PROREC_DATA_DIR=str(data_dir))
    assert done.exit_code == 1
    assert done.stdout.splitlines() == [
        "v1: not in the cache here; publish its artifact",
        "catalog: put back as of revision 3, items changed: 4",
    ]
    assert done.stderr == "error: v1 was active and is missing: publish its artifact, and restore again\n"
    assert store.deployment() is None
    store.publish(plain_artifact(data_dir / "again", "v1"))
    assert run(store, "restore", PROREC_DATA_DIR=str(data_dir)).exit_code == 0
    assert store.deployment() is not None
    assert store.placements("v1") == CODES  # which could not be kept before


def test_what_was_sent_and_is_not_there_any_more_is_no_catalog(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    stage = CatalogRecords._stage

    def flushed(catalog: CatalogRecords, records: Sequence[ItemRecord], items: str, changed: str) -> None:
        stage(catalog, records, items, changed)
        if records[0].item_id == "a":
            lose(store)

    monkeypatch.setattr(CatalogRecords, "_stage", flushed)
    records = [ItemRecord(f"{letter}{number}"[: 1 + number], number + 1) for letter in "ab" for number in range(60)]
    with pytest.raises(StoreError, match="restore again"):
        store.restore_catalog(records, 60)
    assert store.catalog_revision() == 0


def test_changes_can_be_forgotten(store: Store, data_dir: Path) -> None:
    serve(store, data_dir, "v1")
    lose(store)
    done = run(store, "restore", "--forget-changes", PROREC_DATA_DIR=str(data_dir))
    assert "catalog: begun anew; nothing is hidden, set or added any more" in done.stdout.splitlines()
    found = store.catalog_changes(3, "before")
    assert (found.whole, found.revision, found.records) == (True, 1, [])


def test_a_catalog_that_cannot_be_read_is_not_taken_for_an_empty_one(store: Store, data_dir: Path) -> None:
    folder = serve(store, data_dir, "v1")
    (folder / CATALOG_FILE).write_bytes(b"damaged")
    lose(store)
    done = run(store, "restore", PROREC_DATA_DIR=str(data_dir))
    assert (done.exit_code, done.stdout.splitlines()) == (1, ["v1: published from the cache"])
    assert "what is hidden is not known here" in done.stderr
    assert "or do without (--forget-changes)" in done.stderr
    assert store.deployment() is None
    assert run(store, "restore", "--forget-changes", PROREC_DATA_DIR=str(data_dir)).exit_code == 0
    assert (store.deployment() is not None, store.catalog_revision()) == (True, 1)


def test_where_nothing_was_served_nothing_can_be_put_back(store: Store, data_dir: Path) -> None:
    assert "nothing was served from here" in refusal(run(store, "restore", PROREC_DATA_DIR=str(data_dir)))
    assert store.versions() == []
