from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray

from models.errors import ArtifactError
from models.tables import with_spare_rows


def saved(folder: Path, rows: int, width: int) -> tuple[Path, NDArray[np.float32]]:
    path = folder / "table.npy"
    values = np.random.default_rng(rows).normal(size=(rows, width)).astype(np.float32)
    np.save(path, values)
    return path, values


@pytest.mark.parametrize(("rows", "width", "spare"), [(1, 1, 1), (5, 3, 0), (1000, 16, 5000), (992, 1, 40), (0, 4, 3)])
def test_the_file_s_rows_come_first_and_zeros_behind(tmp_path: Path, rows: int, width: int, spare: int) -> None:
    path, values = saved(tmp_path, rows, width)
    table = with_spare_rows(path, spare)
    assert table.shape == (rows + spare, width)
    assert table.dtype == np.float32
    np.testing.assert_array_equal(table[:rows], values)
    assert not table[rows:].any()


def test_what_is_written_never_reaches_the_file(tmp_path: Path) -> None:
    path, values = saved(tmp_path, 1000, 16)
    before = path.read_bytes()
    table = with_spare_rows(path, 100)
    table[3], table[1000:] = 7.0, 8.0
    assert (table[3] == 7.0).all()
    assert (table[1000:] == 8.0).all()
    np.testing.assert_array_equal(table[4:1000], values[4:])
    assert path.read_bytes() == before
    assert not with_spare_rows(path, 100)[1000:].any()


def test_a_table_lives_on_when_only_a_view_is_left(tmp_path: Path) -> None:
    path, values = saved(tmp_path, 1000, 16)
    view = with_spare_rows(path, 10)[500:]
    path.unlink()
    np.testing.assert_array_equal(view[:500], values[500:])


def test_integers_and_one_dimension_work_too(tmp_path: Path) -> None:
    np.save(tmp_path / "a.npy", np.arange(7, dtype=np.int32))
    assert with_spare_rows(tmp_path / "a.npy", 2).tolist() == [0, 1, 2, 3, 4, 5, 6, 0, 0]


def test_an_array_in_columns_is_refused(tmp_path: Path) -> None:
    np.save(tmp_path / "a.npy", np.asfortranarray(np.ones((3, 4))))
    with pytest.raises(ArtifactError, match="not an array of rows"):
        with_spare_rows(tmp_path / "a.npy", 2)


def test_a_file_that_ends_too_early_is_refused_and_not_read(tmp_path: Path) -> None:
    path, _ = saved(tmp_path, 1000, 16)
    path.write_bytes(path.read_bytes()[:5000])
    with pytest.raises(ArtifactError, match="shorter than its array"):
        with_spare_rows(path, 10)
