"""What the commands of the Makefile would do, as make itself says it."""

import subprocess
from pathlib import Path

ROOT = Path(__file__).parent.parent


def planned(target: str) -> str:
    """The commands of a target, none of them run."""
    words = ["make", "--dry-run", "--no-print-directory", target]
    return subprocess.run(words, cwd=ROOT, capture_output=True, text=True, check=True).stdout


def test_clean_leaves_models_and_data_where_they_are() -> None:
    assert planned("clean").startswith("rm -rf .venv ")
    kept = {"artifacts", "data/movielens-100k", "var"}
    assert not kept & set(planned("clean").split())
    assert kept <= set(planned("distclean").removeprefix(planned("clean")).split())
