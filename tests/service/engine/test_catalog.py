import json
import math

import numpy as np
import pytest

from models.artifact import Artifact
from service.engine.catalog import Catalog, FoundRow, Request, Ticket
from service.errors import BadBeamWidth, BadK, EngineFailed
from service.frames import Query


def query(
    history: list[str],
    k: int = 4,
    *,
    exclude: list[str] | None = None,
    exclude_seen: bool = True,
    beam_width: int | None = None,
) -> Query:
    return Query(1, history, k, math.inf, exclude or [], exclude_seen, beam_width)


def named(*numbers: int) -> list[str]:
    return [f"item-{number}" for number in numbers]


def read(catalog: Catalog, asked: Query) -> Request:
    return catalog.ticket(asked).prepared.request


def place(*items: int) -> FoundRow:
    scores = -np.arange(len(items), dtype=np.float32)
    trail = np.repeat(scores[:, None] - 1, 3, axis=1)
    return FoundRow(
        np.array(items, dtype=np.int32), scores, scores - 1, trail, np.array([item != 13 for item in items])
    )


def most_popular(artifact: Artifact) -> list[str]:
    return named(*artifact.array("popularity").tolist())


def test_unknown_history_is_counted_and_skipped(catalog: Catalog) -> None:
    request = read(catalog, query(["?", *named(3), "", *named(1)]))
    assert request.history.tolist() == [3, 1]
    assert (request.unknown, request.truncated) == (2, 0)


def test_the_newest_known_items_are_read_and_older_ones_counted(catalog: Catalog) -> None:
    request = read(catalog, query([*named(9, 8, 7, 6, 5), "?", *named(4, 3, 2)]))
    assert request.history.tolist() == [7, 6, 5, 4, 3, 2]
    assert (request.unknown, request.truncated) == (1, 2)


def test_seen_items_are_excluded_also_where_the_network_does_not_read_them(catalog: Catalog) -> None:
    request = read(catalog, query(named(*range(20))))
    assert request.excluded.tolist() == list(range(20))


def test_seen_items_may_come_back_when_asked_for(catalog: Catalog) -> None:
    request = read(catalog, query(named(1, 2), exclude=named(5), exclude_seen=False))
    assert request.excluded.tolist() == [5]


def test_excluded_ids_are_merged_and_unknown_ones_ignored(catalog: Catalog) -> None:
    request = read(catalog, query(named(1, 1), exclude=[*named(5, 1, 5), "?"]))
    assert request.excluded.tolist() == [1, 5]


@pytest.mark.parametrize(
    ("unknown", "warnings"),
    [([], []), (["?"], ["1 of exclude is not in the catalog"]), (["?", "!"], ["2 of exclude are not in the catalog"])],
)
def test_unknown_excluded_ids_are_a_warning(catalog: Catalog, unknown: list[str], warnings: list[str]) -> None:
    searched = catalog.ticket(query(named(1), 2, exclude=[*named(5), *unknown]))
    assert catalog.answer(searched, place(7, 3, 9, -1)).warnings == warnings
    assert catalog.popular(catalog.ticket(query([], exclude=[*named(5), *unknown]))).warnings == warnings


def test_a_history_of_ten_thousand_is_read(catalog: Catalog) -> None:
    request = read(catalog, query([*named(*range(60)) * 100, *(f"?{n}" for n in range(4_000))]))
    assert (len(request.history), request.unknown, request.truncated) == (6, 4_000, 5_994)
    assert len(request.excluded) == 60


@pytest.mark.parametrize("history", [[], ["?", "!"]])
def test_a_history_that_says_nothing_is_answered_by_popularity(
    artifact: Artifact, catalog: Catalog, history: list[str]
) -> None:
    request = read(catalog, query(history, k=3))
    assert request.popular
    answer = catalog.popular(catalog.ticket(query(history, k=3)))
    assert answer.source == "popular"
    assert answer.item_ids == most_popular(artifact)[:3]
    assert answer.scores == [1.0, 1 / 2, 1 / 3]
    assert answer.code_scores == []
    assert (answer.used, answer.unknown, answer.exhausted) == (0, len(history), False)


def test_popularity_obeys_exclude(artifact: Artifact, catalog: Catalog) -> None:
    first, second, third = most_popular(artifact)[:3]
    answer = catalog.popular(catalog.ticket(query([], k=2, exclude=[first, third])))
    assert answer.item_ids == [second, most_popular(artifact)[3]]


def test_popularity_runs_out(catalog: Catalog) -> None:
    answer = catalog.popular(catalog.ticket(query([], k=3, exclude=named(*range(59)))))
    assert (answer.item_ids, answer.exhausted) == (named(59), True)


@pytest.mark.parametrize(
    ("k", "beam_width", "width"), [(1, None, 4), (4, None, 4), (5, None, 8), (1, 1, 4), (1, 5, 8), (8, 4, 8)]
)
def test_the_smallest_graph_that_is_wide_enough_is_used(
    catalog: Catalog, k: int, beam_width: int | None, width: int
) -> None:
    assert read(catalog, query(named(1), k, beam_width=beam_width)).width == width


@pytest.mark.parametrize("k", [0, -1, 9])
def test_k_beyond_the_widest_beam_is_refused_naming_the_limit(catalog: Catalog, k: int) -> None:
    with pytest.raises(BadK, match=rf"{k}\b.*between 1 and 8"):
        catalog.ticket(query([], k))


def test_a_beam_wider_than_any_graph_is_refused(catalog: Catalog) -> None:
    with pytest.raises(BadBeamWidth, match=r"9.*8"):
        catalog.ticket(query([], 1, beam_width=9))


def test_rows_of_one_bucket_and_width_share_a_shape(catalog: Catalog) -> None:
    shapes = [catalog.ticket(query(named(*range(length)))).prepared.shape for length in (1, 3, 4, 9)]
    assert shapes[0] == shapes[1] != shapes[2] == shapes[3]
    assert [shape.bucket for shape in shapes] == [3, 3, 6, 6]


def ticket(catalog: Catalog, k: int = 2, exclude: list[str] | None = None) -> Ticket:
    return catalog.ticket(query(named(1), k, exclude=exclude))


def test_an_answer_holds_the_first_k_with_their_scores(catalog: Catalog) -> None:
    answer = catalog.answer(ticket(catalog), place(7, 3, 9, -1))
    assert answer.item_ids == named(7, 3)
    assert (answer.scores, answer.code_scores) == ([0.0, -1.0], [-1.0, -2.0])
    assert (answer.source, answer.exhausted, answer.used) == ("model", False, 1)
    assert (answer.metadata, answer.codes) == (None, None)


def test_metadata_and_codes_come_when_asked_for(artifact: Artifact, catalog: Catalog) -> None:
    asked = catalog.ticket(Query(1, named(1), 1, math.inf, with_metadata=True, with_codes=True))
    answer = catalog.answer(asked, place(7))
    assert answer.metadata is not None
    assert json.loads(answer.metadata[0])["title"] == "Title 7"
    assert answer.codes == [artifact.codes.tokens[7].tolist()]


def test_a_short_answer_is_exhausted_when_no_more_items_are_legal(catalog: Catalog) -> None:
    answer = catalog.answer(ticket(catalog, k=2, exclude=named(*range(59))), place(59, -1, -1, -1))
    assert (answer.item_ids, answer.exhausted) == (named(59), True)


@pytest.mark.parametrize(
    ("found", "fault"),
    [
        (place(7, 7, 3), "an item twice"),
        (place(7, 1, 3), "an excluded item"),
        (place(7, 13, 3), "an item that is unavailable or does not match the filter"),
        (place(7, -1, -1), "1 items where 2 are legal"),
    ],
)
def test_a_search_that_breaks_its_promise_is_no_answer(catalog: Catalog, found: FoundRow, fault: str) -> None:
    with pytest.raises(EngineFailed, match=fault):
        catalog.answer(ticket(catalog), found)
