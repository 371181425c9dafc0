"""The comparison of two artifacts, on two tiny ones."""

from pathlib import Path

from deploy.graph_ab import compare, random_rows
from service.engine.search import GraphSearch, Shape
from tests.tiny import build_tiny_artifact


def test_two_artifacts_are_compared_pair_by_pair(tmp_path: Path) -> None:
    one = build_tiny_artifact(tmp_path, version="one")
    other = build_tiny_artifact(tmp_path, version="other", seed=1)
    searches = [GraphSearch(artifact, 1) for artifact in (one, other)]
    rows = random_rows(one, 4, 3)
    assert "first ten in common 1.000" in compare([searches[0], searches[0]], rows, Shape(8, 3), 0.0)
    said = compare(searches, rows, Shape(8, 3), 0.0)
    assert "(5 pairs)" in said
    assert "in common 1.000" not in said
