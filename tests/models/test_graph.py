"""Rows stacked into fixed arrays, against rows stacked into new ones."""

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from models.graph import SearchRow, fill_request_inputs, request_inputs
from models.trie import DeadStates

LEVELS, DEAD, BUCKET, ROWS = 2, 5, 4, 6


def dead(parents: list[int]) -> DeadStates:
    numbers = np.array(parents, dtype=np.int32)
    return DeadStates(numbers, numbers + 7)


short_lists = st.lists(st.integers(0, 99), max_size=DEAD)
rows_of = st.builds(
    lambda history, lists, slot: SearchRow(np.array(history, dtype=np.int32), [dead(part) for part in lists], slot),
    st.lists(st.integers(0, 99), max_size=7),
    st.one_of(st.just([]), st.lists(short_lists, min_size=LEVELS, max_size=LEVELS)),
    st.integers(0, 3),
)


@settings(max_examples=100, deadline=None)
@given(rows=st.lists(rows_of, min_size=1, max_size=ROWS))
def test_fixed_arrays_hold_what_new_ones_would(rows: list[SearchRow]) -> None:
    empty = [SearchRow(np.empty(0, dtype=np.int32))] * (ROWS - len(rows))
    wanted = request_inputs([*rows, *empty], BUCKET, LEVELS, 0.5)
    arrays = request_inputs([SearchRow(np.arange(9, dtype=np.int32), slot=9)] * ROWS, BUCKET, LEVELS, 3.0)
    for name in arrays:
        if name.startswith("dead"):
            arrays[name] = np.full((ROWS, DEAD), 55, dtype=np.int32)
    fill_request_inputs(rows, 0.5, arrays)
    for name, array in wanted.items():
        padding = -1 if name.startswith("dead_parent") else 0
        if name.startswith("dead"):
            width = min(DEAD, array.shape[1])  # new arrays are padded to a power of two
            assert (arrays[name][:, width:] == padding).all()
            np.testing.assert_array_equal(arrays[name][:, :width], array[:, :width])
        else:
            np.testing.assert_array_equal(arrays[name], array)
