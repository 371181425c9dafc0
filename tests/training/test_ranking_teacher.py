"""Soft targets of codes against sums over items, written out."""

import numpy as np
import torch

from models.codes import CodeTable
from models.trie import CodeTrie
from training.ranking_teacher import RankingTeacher
from training.siblings import Siblings

ITEMS, LEVELS, TOKENS, WIDTH = 60, 3, 5, 4


def test_a_token_is_as_likely_as_the_items_below_it() -> None:
    rng = np.random.default_rng(0)
    every = np.stack(np.unravel_index(rng.permutation(TOKENS**LEVELS)[:ITEMS], (TOKENS,) * LEVELS), axis=1)
    codes = CodeTable(every.astype(np.int32), TOKENS)
    generator = torch.Generator().manual_seed(0)
    item = torch.randn(ITEMS, WIDTH, generator=generator)
    states = 3 * torch.randn(7, WIDTH, generator=generator)
    target = torch.tensor([0, 59, 3, 3, 17, 20, 41])
    trie = CodeTrie.build(codes)
    choices = Siblings(trie, torch.device("cpu")).of(target)
    teacher = RankingTeacher(trie, torch.device("cpu"))
    taught = teacher.targets(teacher.likely(states, item), choices)
    probability = (states @ item.T).double().softmax(dim=1).numpy()
    assert len(taught) == LEVELS
    for level, found in enumerate(taught):
        for row, one in enumerate(target.tolist()):
            alike = (every[:, :level] == every[one, :level]).all(axis=1)
            wanted = [probability[row, alike & (every[:, level] == token)].sum() for token in range(TOKENS)]
            spread = np.zeros(TOKENS)
            np.add.at(spread, choices[level].token[row], found[row])
            np.testing.assert_allclose(spread, np.array(wanted) / sum(wanted), atol=1e-6)


def test_below_a_prefix_that_nobody_would_take_its_items_share_all_there_is() -> None:
    every = np.array([[0, 0], [0, 1], [1, 0], [1, 1]], dtype=np.int32)
    item = torch.tensor([[30.0], [29.0], [-20.0], [-21.0]])
    trie = CodeTrie.build(CodeTable(every, 2))
    choices = Siblings(trie, torch.device("cpu")).of(torch.tensor([3]))
    teacher = RankingTeacher(trie, torch.device("cpu"))
    taught = teacher.targets(teacher.likely(torch.ones(1, 1), item), choices)
    share = 1 / (1 + np.exp(-1))
    np.testing.assert_allclose(taught[1][0], [share, 1 - share], atol=1e-4)


def test_items_are_drawn_as_often_as_the_item_head_likes_them() -> None:
    """Items are not numbered as leaves are."""
    every = np.array([[1, 1], [0, 1], [1, 0], [0, 0]], dtype=np.int32)
    teacher = RankingTeacher(CodeTrie.build(CodeTable(every, 2)), torch.device("cpu"))
    item = torch.tensor([[0.0], [1.0], [-50.0], [2.0]])
    torch.manual_seed(0)
    drawn = teacher.drawn(teacher.likely(torch.ones(20_000, 1), item))
    shares = torch.bincount(drawn, minlength=4) / len(drawn)
    torch.testing.assert_close(shares, item[:, 0].softmax(dim=0), atol=0.02, rtol=0.0)


def test_many_positions_are_taught_as_each_of_them_alone() -> None:
    """They are worked on a part at a time."""
    every = np.array([[0, 0], [0, 1], [1, 0], [1, 1]], dtype=np.int32)
    trie, cpu = CodeTrie.build(CodeTable(every, 2)), torch.device("cpu")
    teacher, siblings, generator = RankingTeacher(trie, cpu), Siblings(trie, cpu), torch.Generator().manual_seed(0)
    states, item = torch.randn(1000, 3, generator=generator), torch.randn(4, 3, generator=generator)
    target = torch.randint(4, (1000,), generator=generator)
    likely = teacher.likely(states, item)
    taught = teacher.targets(likely, siblings.of(target))
    for place in range(0, 1000, 37):
        one = slice(place, place + 1)
        torch.testing.assert_close(likely[one], teacher.likely(states[one], item))
        alone = teacher.targets(likely[one], siblings.of(target[one]))
        assert all(torch.equal(level[one], level_alone) for level, level_alone in zip(taught, alone, strict=True))
    nothing = teacher.targets(likely[:0], siblings.of(target[:0]))  # a process's piece of a batch may have no window
    assert [len(level) for level in nothing] == [0, 0]
    assert len(teacher.drawn(likely[:0])) == 0
