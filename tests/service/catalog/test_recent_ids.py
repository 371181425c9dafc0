from hypothesis import given, settings
from hypothesis import strategies as st

from models.item_ids import ItemIds
from service.catalog.recent_ids import RecentIds

IDS = [f"item-{number}" for number in range(12)]


@given(
    asked=st.lists(st.lists(st.sampled_from([*IDS, "", "?", "\ud800"]), max_size=8), max_size=12),
    limit=st.integers(1, 14),
)
@settings(max_examples=100, deadline=None)
def test_what_is_remembered_changes_no_index(asked: list[list[str]], limit: int) -> None:
    plain = ItemIds.build(IDS)
    recent = RecentIds(plain, limit)
    for ids in asked:
        assert recent.indices(ids).tolist() == plain.indices(ids).tolist()


@given(asked=st.lists(st.integers(0, 11), max_size=40), limit=st.integers(1, 14))
@settings(max_examples=100, deadline=None)
def test_what_is_remembered_changes_no_id(asked: list[int], limit: int) -> None:
    recent = RecentIds(ItemIds.build(IDS), limit)
    assert [recent[index] for index in asked] == [IDS[index] for index in asked]


def test_unknown_ids_take_no_room() -> None:
    recent = RecentIds(ItemIds.build(IDS), limit=2)
    recent.indices(["item-3"])
    recent.indices([f"?{number}" for number in range(100)])
    assert list(recent._indices) == ["item-3"]


def test_never_more_than_the_limit_are_remembered() -> None:
    recent = RecentIds(ItemIds.build(IDS), limit=5)
    for number in range(12):
        recent.indices([IDS[number]])
        assert recent[number] == IDS[number]
        assert len(recent._indices) <= 5
        assert len(recent._texts) <= 5
