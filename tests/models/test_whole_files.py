"""What is on the disk when a file or folder gets its name."""

from pathlib import Path

import pytest

from models.whole_files import put_whole
from tests.synced import synced_before_renamed


def test_a_folder_is_on_the_disk_with_all_that_is_in_it_before_it_gets_its_name(tmp_path: Path) -> None:
    aside, target = tmp_path / "aside", tmp_path / "target"
    (aside / "inner").mkdir(parents=True)
    (aside / "a").write_text("a")
    (aside / "inner" / "b").write_text("b")
    assert synced_before_renamed(lambda: put_whole(aside, target)) == {"aside", "a", "inner", "b"}
    assert (target / "inner" / "b").read_text() == "b"
    assert not aside.exists()


def test_a_file_is_on_the_disk_before_it_takes_the_place_of_another(tmp_path: Path) -> None:
    aside, target = tmp_path / "aside", tmp_path / "target"
    aside.write_text("new")
    target.write_text("old")
    assert synced_before_renamed(lambda: put_whole(aside, target)) == {"aside"}
    assert target.read_text() == "new"


def test_a_folder_that_is_not_empty_is_not_replaced(tmp_path: Path) -> None:
    aside, target = tmp_path / "aside", tmp_path / "target"
    aside.mkdir()
    target.mkdir()
    (target / "theirs").touch()
    with pytest.raises(OSError, match="not empty"):
        put_whole(aside, target)
    assert aside.exists()
