"""A running engine follows the catalog and answers filters, over its socket."""

import asyncio
import json
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from models.artifact import Artifact
from service.catalog.records import ItemRecord
from service.frames import (
    Answer,
    Applied,
    Apply,
    Cancel,
    Condition,
    Failure,
    Lookup,
    Place,
    Placed,
    Query,
    Reply,
    Request,
)

from .newcomers import added, with_item_encoder
from .test_engine_process import Client, running, talk

EVEN = [Condition("category", any_of=["even"])]


@pytest.fixture(scope="module")
def open_artifact(artifact: Artifact, tmp_path_factory: pytest.TempPathFactory) -> Artifact:
    return with_item_encoder(artifact, tmp_path_factory.mktemp("open"))


@pytest.fixture
def path(open_artifact: Artifact, socket_path: Path) -> Iterator[Path]:
    with running(open_artifact, socket_path):
        yield socket_path


def query(number: int, k: int = 4, **options: object) -> Query:
    return Query(number, ["item-1"], k, time.monotonic() + 60.0, **options)  # type: ignore[arg-type]


async def replies(client: Client, *messages: Request) -> list[Reply]:
    """In the order of the messages."""
    client.send(*messages)
    found = [await client.receive() for _ in messages]
    by_id = {reply.query_id: reply for reply in found if reply is not None}
    return [by_id[message.query_id] for message in messages]


async def answer(client: Client, asked: Query) -> Answer:
    (reply,) = await replies(client, asked)
    assert isinstance(reply, Answer), reply
    return reply


def test_a_story_of_changes_is_obeyed_from_each_reply_on(path: Path) -> None:
    async def story(client: Client) -> None:
        both = await answer(client, query(1, filter=EVEN, include_items=["item-2", "item-3", "item-4", "?"]))
        assert set(both.item_ids) == {"item-2", "item-4"}
        assert (both.exhausted, both.catalog_revision) == (True, 0)
        assert both.warnings == ["1 of include_items is not in the catalog"]
        gone = ItemRecord("item-2", 1, available=False)
        (applied,) = await replies(client, Apply(2, 1, [gone]))
        assert applied == Applied(2, 1)
        left = await answer(client, query(3, filter=EVEN, include_items=["item-2", "item-3", "item-4"]))
        assert (left.item_ids, left.catalog_revision) == (["item-4"], 1)
        record = added("new-0", category="even", title="Brand new")
        (placed,) = await replies(client, Place(4, [record]))
        assert isinstance(placed, Placed)
        (missing,) = await replies(client, Apply(5, 2, [record]))
        assert missing == Applied(5, 2, ["new-0"])
        (applied,) = await replies(client, Apply(6, 3, [record], placed.codes))
        assert applied == Applied(6, 3)
        new = await answer(client, query(7, include_items=["new-0"], with_metadata=True, with_codes=True))
        assert (new.item_ids, new.codes) == (["new-0"], [placed.codes["new-0"]])
        assert new.metadata is not None
        assert json.loads(new.metadata[0])["title"] == "Brand new"

    talk(path, story)


def test_queries_and_changes_in_flight_at_once_all_get_their_reply_and_stay_legal(path: Path) -> None:
    """Half of the items come and go all the time, the other half is all that may come back in the end."""
    even = [f"item-{number}" for number in range(0, 60, 2)]

    async def story(client: Client) -> None:
        changer = await Client.connect(path)
        asked = [query(number, k=8, filter=EVEN if number % 3 else []) for number in range(600)]
        client.send(*asked)
        for revision in range(1, 41):
            records = [ItemRecord(item, revision, available=revision % 2 == 0) for item in even[2:]]
            (reply,) = await replies(changer, Apply(revision, revision, records))
            assert isinstance(reply, Applied)
        by_id = await client.replies(len(asked))
        await changer.close()
        revisions = set()
        for number in range(600):
            found = by_id[number]
            assert isinstance(found, Answer), found
            revisions.add(found.catalog_revision)
            hidden = found.catalog_revision % 2 == 1
            assert set(found.item_ids).isdisjoint(even[2:]) or not hidden
            filtered = bool(number % 3)
            assert len(found.item_ids) == (2 if hidden and filtered else 8)
            assert found.exhausted == (hidden and filtered)

    talk(path, story)


def test_a_wrong_filter_is_told_field_by_field(path: Path) -> None:
    async def story(client: Client) -> None:
        wrong = [Condition("size", any_of=["big"]), Condition("category", gte=1.0)]
        (reply,) = await replies(client, query(1, filter=wrong))
        assert isinstance(reply, Failure)
        assert reply.code == "bad_filter"
        assert "category (keyword)" in reply.message
        assert [pointer for pointer, _ in reply.errors] == ["/filter/size", "/filter/category/gte"]
        assert (await answer(client, query(2, filter=EVEN))).item_ids

    talk(path, story)


def test_a_filter_on_an_attribute_that_nothing_has_any_more_is_wrong_though_it_was_compiled(path: Path) -> None:
    async def story(client: Client) -> None:
        red = [Condition("colour", any_of=["red"])]
        await replies(client, Apply(1, 1, [ItemRecord("item-2", 1, attributes={"colour": "red"})]))
        assert (await answer(client, query(2, filter=red))).item_ids == ["item-2"]
        await replies(client, Apply(3, 2, [ItemRecord("item-2", 2)]))
        (reply,) = await replies(client, query(4, filter=red))
        assert isinstance(reply, Failure)
        assert reply.code == "bad_filter"

    talk(path, story)


def test_diversity_min_score_and_explanations(path: Path) -> None:
    async def story(client: Client) -> None:
        diverse = await answer(client, query(1, k=4, diversity=1.0, with_codes=True, with_explain=True))
        assert diverse.codes is not None
        assert len({code[0] for code in diverse.codes}) == 4
        assert diverse.scores == sorted(diverse.scores, reverse=True)
        assert diverse.explanations is not None
        for explanation, code, score in zip(diverse.explanations, diverse.codes, diverse.code_scores, strict=True):
            assert explanation.tokens == code
            assert sum(explanation.log_probs) == pytest.approx(score, abs=1e-5)
            assert all(log_prob <= 0 for log_prob in explanation.log_probs)
            assert json.loads(explanation.attributes)["category"] in ("even", "odd")
        plain = await answer(client, query(2, k=4))
        cut = await answer(client, query(3, k=4, min_score=plain.scores[1]))
        assert cut.item_ids == plain.item_ids[:2]
        assert (cut.exhausted, cut.warnings) == (False, ["2 items are below min_score"])

    talk(path, story)


def test_more_filters_at_once_than_slots_are_all_answered(open_artifact: Artifact, socket_path: Path) -> None:
    async def story(client: Client) -> None:
        asked = [query(number, include_items=[f"item-{2 + number % 50}"]) for number in range(300)]
        by_id = await client.ask(*asked)
        for number in range(300):
            found = by_id[number]
            assert isinstance(found, Answer), found
            assert found.item_ids == [f"item-{2 + number % 50}"]

    few_slots = {"PROREC_SPARE_ITEMS": "200000", "PROREC_FILTER_CACHE_BYTES": "1048576"}  # each slot counts them all
    with running(open_artifact, socket_path, **few_slots):
        talk(socket_path, story)


def test_a_cold_filter_can_be_cancelled_and_times_out(path: Path) -> None:
    async def story(client: Client) -> None:
        late = query(1, filter=EVEN)
        late.deadline = time.monotonic() + 1e-6
        cancelled = query(2, filter=[Condition("category", any_of=["odd"])])
        client.send(late, cancelled, Cancel(2))
        by_id = await client.replies(2)
        assert isinstance(by_id[1], Failure)
        assert by_id[1].code == "deadline_exceeded"
        assert isinstance(by_id[2], Failure | Answer)
        assert (await answer(client, query(3, filter=EVEN))).item_ids

    talk(path, story)


def test_what_only_a_reader_answers_is_refused(path: Path) -> None:
    async def story(client: Client) -> None:
        (reply,) = await replies(client, Lookup(1, "item-1"))
        assert isinstance(reply, Failure)
        await asyncio.sleep(0)

    talk(path, story)
