"""Siblings of codes' tokens against the code table itself."""

import numpy as np
import torch

from models.trie import CodeTrie
from tests.tiny import random_codes
from training.siblings import Siblings

LEVELS, TOKENS = 3, 6


def test_every_token_is_chosen_among_the_children_of_its_prefix() -> None:
    codes = random_codes(70, LEVELS, TOKENS, seed=3)
    items = torch.tensor([0, 69, 12, 12, 40])
    logits = torch.randn(len(items), TOKENS, generator=torch.Generator().manual_seed(0))
    for level, choice in enumerate(Siblings(CodeTrie.build(codes), torch.device("cpu")).of(items)):
        for row, item in enumerate(items.tolist()):
            alike = (codes.tokens[:, :level] == codes.tokens[item, :level]).all(axis=1)
            siblings = np.unique(codes.tokens[alike, level])
            assert choice.token[row][choice.exists[row]].tolist() == siblings.tolist()
            assert siblings[choice.taken[row]] == codes.tokens[item, level]
            among = torch.log_softmax(logits[row, torch.from_numpy(siblings).long()], dim=0)
            assert torch.isclose(choice.log_prob(logits)[row], among[choice.taken[row]], atol=1e-6)
        assert torch.equal(choice.scores(logits).softmax(dim=1) == 0, ~choice.exists)


def test_smoothing_spreads_a_share_over_siblings_alone() -> None:
    choice = Siblings(CodeTrie.build(random_codes(70, LEVELS, TOKENS, seed=3)), torch.device("cpu")).of(
        torch.arange(70)
    )[2]
    count = choice.exists.sum(dim=1)
    assert count.min() < count.max()
    smoothed = choice.smoothed(0.3)
    own = smoothed.gather(1, choice.taken[:, None])[:, 0]
    assert torch.allclose(own, 0.7 + 0.3 / count)
    assert torch.allclose(smoothed.sum(dim=1), torch.ones(70))
    assert not smoothed[~choice.exists].any()
