"""What prefixes are worth as a teacher: against the products written out, and against the ranking of all items."""

import numpy as np
import pytest
import torch

from models.graph import Inputs
from models.prefix_output import PrefixOutput
from models.trie import CodeTrie
from tests.tiny import random_codes
from training import prefix_teacher
from training.prefix_teacher import PrefixTeacher
from training.prefix_values import fit_prefix_output
from training.ranking_teacher import RankingTeacher
from training.siblings import Siblings

ITEMS, LEVELS, TOKENS, WIDTH = 60, 3, 5, 4
CODES = random_codes(ITEMS, LEVELS, TOKENS, seed=0)
TRIE = CodeTrie.build(CODES)
ITEM = np.random.default_rng(1).normal(size=(ITEMS, WIDTH)).astype(np.float32)
CPU = torch.device("cpu")


def any_vectors() -> tuple[PrefixTeacher, Inputs]:
    """Vectors that were fitted to nothing, so that nothing but themselves can explain what is taught."""
    prefixes = fit_prefix_output(TRIE, ITEM, torch.eye(WIDTH))
    strange = np.random.default_rng(2).normal(size=prefixes.vectors.shape).astype(np.float32)
    tables = {"item_output": ITEM} | PrefixOutput(strange, prefixes.rows).inputs()
    return PrefixTeacher(TRIE, Siblings(TRIE, CPU), tables), tables


def worth(tables: Inputs, prefix: tuple[int, ...], user: np.ndarray) -> float:
    """Of a prefix, by the code table."""
    items = np.flatnonzero((CODES.tokens[:, : len(prefix)] == prefix).all(axis=1))
    if len(items) == 1:
        return float(user @ ITEM[items[0]])
    states = np.unique(CODES.tokens[:, : len(prefix)], axis=0).tolist()
    row = tables[f"prefix_row_{len(prefix) - 1}"][states.index(list(prefix))]
    return float(user @ tables["prefix_output"][-1 - row])


def likely(tables: Inputs, prefix: tuple[int, ...], user: np.ndarray) -> dict[int, float]:
    """Of every token that may follow."""
    alike = (CODES.tokens[:, : len(prefix)] == prefix).all(axis=1)
    tokens = np.unique(CODES.tokens[alike, len(prefix)]).tolist()
    scores = np.exp([worth(tables, (*prefix, token), user) for token in tokens])
    return dict(zip(tokens, scores / scores.sum(), strict=True))


@pytest.mark.parametrize("at_once", [1, 2**24])
def test_a_token_is_as_likely_as_its_prefix_is_worth(monkeypatch: pytest.MonkeyPatch, at_once: int) -> None:
    monkeypatch.setattr(prefix_teacher, "_NUMBERS_AT_ONCE", at_once)
    teacher, tables = any_vectors()
    users = torch.randn(6, WIDTH, generator=torch.Generator().manual_seed(0))
    target = torch.tensor([0, 59, 3, 17, 20, 41])
    choices = teacher.siblings.of(target)
    taught = teacher.ranking(users).targets(choices)
    assert len(taught) == LEVELS
    for level, (found, choice) in enumerate(zip(taught, choices, strict=True)):
        for row, item in enumerate(target.tolist()):
            wanted = likely(tables, tuple(CODES.tokens[item, :level].tolist()), users[row].numpy())
            exists = choice.exists[row]
            assert choice.token[row][exists].tolist() == list(wanted)
            np.testing.assert_allclose(found[row][exists], list(wanted.values()), atol=1e-5)
            assert not found[row][~exists].any()


def test_items_are_drawn_token_by_token() -> None:
    teacher, tables = any_vectors()
    user = torch.randn(WIDTH, generator=torch.Generator().manual_seed(3))
    torch.manual_seed(0)
    drawn = teacher.ranking(user.expand(20_000, -1)).drawn()
    shares = torch.bincount(drawn, minlength=ITEMS) / len(drawn)
    for item, code in enumerate(CODES.tokens.tolist()):
        wanted = np.prod([likely(tables, tuple(code[:level]), user.numpy())[code[level]] for level in range(LEVELS)])
        assert shares[item] == pytest.approx(wanted, abs=0.01)


def test_fitted_vectors_say_nearly_what_all_items_say() -> None:
    """Of user states that have something in common, as those of a network have: it stands for the number of items."""
    users = torch.randn(400, WIDTH, generator=torch.Generator().manual_seed(4))
    users[:, 0] = 2.0
    near_by = ITEM * np.float32(0.5)
    tables = {"item_output": near_by} | fit_prefix_output(TRIE, near_by, users).inputs()
    siblings = Siblings(TRIE, CPU)
    choices = siblings.of(torch.arange(400) % ITEMS)
    found = PrefixTeacher(TRIE, siblings, tables).ranking(users).targets(choices)
    wanted = RankingTeacher(TRIE, CPU).ranking(users, torch.from_numpy(near_by)).targets(choices)
    blind = [choice.exists / choice.exists.sum(dim=1, keepdim=True) for choice in choices]
    for near, far, one in zip(found, blind, wanted, strict=True):
        assert (near - one).abs().sum() < 0.4 * (far - one).abs().sum()
