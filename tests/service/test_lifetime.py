"""How a process that holds one artifact starts."""

import gc

from service.lifetime import settle


def test_the_garbage_collector_looks_no_more_at_what_has_settled() -> None:
    lasting: list[object] = []
    assert any(each is lasting for each in gc.get_objects())
    settle()
    try:
        assert not any(each is lasting for each in gc.get_objects())
    finally:
        gc.unfreeze()
