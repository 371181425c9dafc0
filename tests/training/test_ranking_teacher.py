"""Soft targets of codes against sums over items, written out."""

import numpy as np
import torch

from models.codes import CodeTable
from models.trie import CodeTrie
from training.ranking_teacher import RankingTeacher

ITEMS, LEVELS, TOKENS, WIDTH = 60, 3, 5, 4


def test_a_token_is_as_likely_as_the_items_below_it() -> None:
    rng = np.random.default_rng(0)
    every = np.stack(np.unravel_index(rng.permutation(TOKENS**LEVELS)[:ITEMS], (TOKENS,) * LEVELS), axis=1)
    codes = CodeTable(every.astype(np.int32), TOKENS)
    generator = torch.Generator().manual_seed(0)
    item = torch.randn(ITEMS, WIDTH, generator=generator)
    states = 3 * torch.randn(7, WIDTH, generator=generator)
    target = torch.tensor([0, 59, 3, 3, 17, 20, 41])
    taught = RankingTeacher(CodeTrie.build(codes), torch.device("cpu")).targets(states, item, target)
    probability = (states @ item.T).double().softmax(dim=1).numpy()
    assert len(taught) == LEVELS
    for level, found in enumerate(taught):
        for row, one in enumerate(target.tolist()):
            alike = (every[:, :level] == every[one, :level]).all(axis=1)
            wanted = [probability[row, alike & (every[:, level] == token)].sum() for token in range(TOKENS)]
            np.testing.assert_allclose(found[row], np.array(wanted) / sum(wanted), atol=1e-6)
