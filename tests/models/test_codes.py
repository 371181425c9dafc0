import numpy as np
import pytest

from models.codes import CodeTable
from models.errors import CodeError


def table(rows: list[list[int]], tokens_per_level: int = 4) -> CodeTable:
    return CodeTable(np.array(rows, dtype=np.int32), tokens_per_level)


def test_order_sorts_by_first_token_first() -> None:
    assert table([[1, 0], [0, 3], [0, 1]]).order().tolist() == [2, 1, 0]


def test_order_is_the_same_when_codes_do_not_fit_one_integer() -> None:
    rng = np.random.default_rng(0)
    rows = np.unique(rng.integers(0, 3, (200, 8)).astype(np.int32), axis=0)
    rng.shuffle(rows)
    wide = CodeTable(rows * 20_000, 65_536)  # 8 × 16 bits is more than one integer holds
    assert wide.order().tolist() == CodeTable(rows, 4).order().tolist()


def test_used_tokens_counts_each_level() -> None:
    assert table([[0, 1], [0, 2], [0, 3]]).used_tokens() == [1, 3]


@pytest.mark.parametrize("bad", [[[0, 4]], [[-1, 0]]])
def test_a_token_out_of_range_is_refused(bad: list[list[int]]) -> None:
    with pytest.raises(CodeError, match="outside"):
        table(bad)


def test_a_wrong_dtype_is_refused() -> None:
    with pytest.raises(CodeError, match="int32"):
        CodeTable(np.zeros((2, 2), dtype=np.int64), 4)
