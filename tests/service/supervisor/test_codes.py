"""What is remembered of codes, and what becomes of it when Redis has lost them."""

from pathlib import Path

import pytest

from service.store import Store
from service.supervisor.codes import Codes
from tests.service.plain_artifact import plain_artifact

pytestmark = pytest.mark.anyio


async def test_a_redis_that_has_lost_what_it_decided_is_offered_it_again(store: Store, tmp_path: Path) -> None:
    store.publish(plain_artifact(tmp_path, "v1"))
    codes, grown = Codes(store), list[int]()
    codes.on_growth = lambda: grown.append(1)
    codes.recall({"v1": {"a": (1, 2), "b": (0, 3), "gone": (2, 2)}, "v9": {"a": (0, 0)}})
    store.place("v1", {"other": (0, 3)})
    await codes.renew({"a", "b"})  # v9 is not published, gone is no item any more, another one has b's code
    assert store.placements("v1") == {"other": (0, 3), "a": (1, 2)}
    assert codes.all_known() == {"v1": {"a": (1, 2)}}
    assert len(grown) == 3
