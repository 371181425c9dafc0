"""The comparison of two artifacts, on two tiny ones."""

from deploy.bench.gpu_folder import random_histories, unseen_rows
from deploy.graph_ab import compare
from models.artifact import Artifact
from service.engine.search import GraphSearch, Shape


def test_two_artifacts_are_compared_pair_by_pair(open_to_new_items: Artifact, another_artifact: Artifact) -> None:
    searches = [GraphSearch(artifact, 1) for artifact in (open_to_new_items, another_artifact)]
    rows = unseen_rows(open_to_new_items, random_histories(open_to_new_items, 4, 3))
    assert "first ten in common 1.000" in compare([searches[0], searches[0]], rows, Shape(8, 3), 0.0)
    said = compare(searches, rows, Shape(8, 3), 0.0)
    assert "(5 pairs)" in said
    assert "in common 1.000" not in said
