"""Codes of items that were added live: the first one given to an item, and to no other."""

import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from models.artifact import Artifact
from service.errors import StoreCorrupt, UnknownVersion
from service.store import Store
from service.store.publish import CODES_KEPT_S
from tests.service.plain_artifact import plain_artifact
from tests.service.store_probes import stored_keys


@pytest.fixture
def published(store: Store, tmp_path: Path) -> Store:
    """v1 and v2 are there."""
    for version in ("v1", "v2"):
        store.publish(plain_artifact(tmp_path, version))
    return store


def test_a_code_is_given_once_and_stays(published: Store) -> None:
    assert published.place("v1", {"a": (1, 2, 3), "b": (10, 0, 255)}) == {"a": (1, 2, 3), "b": (10, 0, 255)}
    assert published.place("v1", {"a": (9, 9, 9)}) == {"a": (1, 2, 3)}
    assert published.placements("v1") == {"a": (1, 2, 3), "b": (10, 0, 255)}
    assert published.placements("v1", ["b", "nope", "\ud800"]) == {"b": (10, 0, 255)}
    assert published.placements("v1", []) == {}


def test_a_code_that_is_taken_is_not_given(published: Store) -> None:
    published.place("v1", {"a": (1, 2, 3)})
    assert published.place("v1", {"b": (1, 2, 3), "c": (1, 2, 4)}) == {"c": (1, 2, 4)}
    assert published.place("v1", {"b": (1, 2, 5)}) == {"b": (1, 2, 5)}
    assert published.place("v1", {"d": (7,), "e": (7,)}) == {"d": (7,)}


def test_versions_place_apart(published: Store) -> None:
    published.place("v1", {"a": (1, 2)})
    assert published.place("v2", {"b": (1, 2), "a": (3, 4)}) == {"b": (1, 2), "a": (3, 4)}
    assert published.placements("v1") == {"a": (1, 2)}


def test_placements_go_after_their_version_unless_it_comes_back(published: Store, tmp_path: Path) -> None:
    published.place("v1", {"a": (1, 2)})
    client, kept = published.redis.client, [published.keys.codes("v1"), published.keys.coded("v1")]
    published.delete("v1")
    assert {key for key in stored_keys(published) if b"v:v1:" in key} == {key.encode() for key in kept}
    assert all(0 < client.ttl(key) <= CODES_KEPT_S for key in kept)
    with pytest.raises(UnknownVersion):
        published.place("v1", {"b": (1, 3)})
    published.publish(Artifact.open(tmp_path / "v1"))
    assert [client.ttl(key) for key in kept] == [-1, -1]
    assert published.place("v1", {"a": (5, 5), "b": (1, 2), "c": (1, 3)}) == {"a": (1, 2), "c": (1, 3)}


def test_nothing_is_placed_in_a_version_that_does_not_exist(published: Store) -> None:
    for version in ("v9", "../v1"):
        with pytest.raises(UnknownVersion):
            published.place(version, {"a": (1,)})
    with pytest.raises(UnknownVersion):
        published.placements("../v1")


def test_many_items_are_placed(published: Store) -> None:
    codes = {f"item-{number}": (number // 256, number % 256) for number in range(5000)}
    assert published.place("v1", codes) == codes
    assert published.placements("v1") == codes
    assert published.placements("v1", list(codes)) == codes


def test_of_replicas_that_place_at_once_all_get_the_same_codes(published: Store) -> None:
    """Each proposes other codes for the same items, from a pool too small for all: who is told a code, has it."""
    start = threading.Barrier(8)

    def propose(replica: int) -> dict[str, tuple[int, ...]]:
        start.wait()
        return published.place("v1", {f"item-{n}": ((n * 7 + replica * 3) % 60,) for n in range(50)})

    with ThreadPoolExecutor(8) as pool:
        answers = list(pool.map(propose, range(8)))
    held = published.placements("v1")
    assert len(set(held.values())) == len(held)
    for answer in answers:
        assert answer.items() <= held.items()
    assert set(held) == {item_id for answer in answers for item_id in answer}


def test_a_damaged_code_is_told(published: Store) -> None:
    published.redis.client.hset(published.keys.codes("v1"), "a", "no code")
    with pytest.raises(StoreCorrupt):
        published.placements("v1")
