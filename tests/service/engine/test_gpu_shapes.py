import pytest

from service.engine.gpu_shapes import NOT_CAPTURED, BatchShape, GraphIds, batch_sizes


def test_every_shape_has_an_id_of_its_own_for_good() -> None:
    ids = GraphIds(longest_dead=64)
    shapes = [
        BatchShape(width, bucket, rows, dead)
        for width in (4, 8)
        for bucket in (3, 6)
        for rows in (1, 2)
        for dead in (64,)
    ]
    given = [ids.of(shape) for shape in shapes]
    assert sorted(given) == list(range(1, 9)), "0 and -1 mean something else to ONNX Runtime"
    assert [ids.of(shape) for shape in shapes] == given


def test_long_dead_lists_and_shapes_beyond_the_limit_are_not_captured() -> None:
    ids = GraphIds(longest_dead=64, most=1)
    assert ids.of(BatchShape(4, 3, 1, 512)) == NOT_CAPTURED
    first = BatchShape(4, 3, 1, 64)
    assert ids.of(first) == 1
    assert ids.of(BatchShape(4, 3, 2, 64)) == NOT_CAPTURED
    assert ids.of(first) == 1


@pytest.mark.parametrize(("most", "sizes"), [(1, (1,)), (2, (1, 2)), (7, (1, 2, 3, 4, 6, 7)), (8, (1, 2, 3, 4, 6, 8))])
def test_sizes_end_with_the_largest_batch(most: int, sizes: tuple[int, ...]) -> None:
    assert batch_sizes(most) == sizes


def test_no_batch_is_padded_by_more_than_half_of_its_rows() -> None:
    sizes = batch_sizes(512)
    assert len(sizes) < 20
    for rows in range(1, 513):
        assert next(size for size in sizes if size >= rows) <= 1.5 * rows
