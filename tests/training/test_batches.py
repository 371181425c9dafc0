import numpy as np
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from training.batches import Windows, batch_count, epoch, pad_histories
from training.interactions import Sequences


def sequences(lengths: list[int]) -> Sequences:
    """Users whose items are numbered through, so that a target's place is known from its number."""
    offsets = np.concatenate([[0], np.cumsum(lengths)]).astype(np.int64)
    return Sequences(offsets, np.arange(offsets[-1], dtype=np.int32))


@given(lengths=st.lists(st.integers(0, 30), min_size=1, max_size=20), history=st.integers(1, 8), size=st.integers(1, 5))
@settings(max_examples=100, deadline=None)
def test_every_target_comes_once_after_the_right_history(lengths: list[int], history: int, size: int) -> None:
    train = sequences([*lengths, 2])
    windows = Windows.cut(train, history)
    seen: list[int] = []
    batches = list(epoch(windows, size, seed=0, number=0))
    assert len(batches) == batch_count(windows, size)
    for batch in batches:
        real = batch.history >= 0
        assert torch.equal(real, batch.target >= 0)
        assert batch.history.shape[1] <= history
        assert torch.equal(batch.history[real] + 1, batch.target[real])
        assert bool((real.int().diff(dim=1) >= 0).all()), "padding is on the left"
        seen += batch.target[real].tolist()
    firsts = train.offsets[:-1][np.diff(train.offsets) > 0]
    assert sorted(seen) == sorted(set(range(len(train.items))) - set(firsts.tolist()))


def test_the_newest_targets_have_the_longest_history() -> None:
    windows = Windows.cut(sequences([10]), 4)
    assert sorted(zip(windows.start.tolist(), windows.end.tolist(), strict=True)) == [(0, 2), (1, 6), (5, 10)]


def test_an_epoch_depends_on_seed_and_number_alone() -> None:
    windows = Windows.cut(sequences([9] * 30), 8)
    first, again, other = (
        [batch.history[:, -1].tolist() for batch in epoch(windows, 4, seed=1, number=number)] for number in (0, 0, 1)
    )
    assert first == again
    assert first != other


def test_batches_hold_windows_of_like_length() -> None:
    windows = Windows.cut(sequences(np.random.default_rng(0).integers(2, 40, size=800).tolist()), 40)
    padded = [batch.history < 0 for batch in epoch(windows, 16, seed=0, number=0)]
    share = sum(int(cells.sum()) for cells in padded) / sum(cells.numel() for cells in padded)
    drawn = np.random.default_rng(1).permutation(windows.end - windows.start - 1).reshape(-1, 16)
    share_drawn = 1 - drawn.mean() / drawn.max(axis=1).mean()
    assert share < share_drawn / 5


def test_histories_are_padded_on_the_left() -> None:
    padded = pad_histories([np.array([1, 2, 3], dtype=np.int32), np.array([], dtype=np.int32)])
    assert padded.tolist() == [[1, 2, 3], [-1, -1, -1]]
