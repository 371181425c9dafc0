"""The proof before an artifact must itself be able to fail."""

from contextlib import nullcontext
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch

from models.artifact import Artifact
from models.beam import Candidates
from models.trie import CodeTrie
from tests.tiny import tiny_package
from training import export
from training.errors import ExportError
from training.export import SCORE_TOLERANCE, GraphSearch, SearchResult, prove_parity, reference
from training.package import Package, search_rows

WIDTH = 8


class Twisted(GraphSearch):
    """The real graph, with one thing wrong in what it answers."""

    fault = ""

    def __call__(self, rows, rescore_weight):  # type: ignore[no-untyped-def]
        found = super().__call__(rows, rescore_weight)
        item, score, code_score = found.item.copy(), found.score.copy(), found.code_score.copy()
        prefix_score = found.prefix_score.copy()
        if self.fault == "scores":
            score += 0.01
        elif self.fault == "code scores":
            code_score += 0.01
        elif self.fault == "prefix scores":
            prefix_score[..., 0] += 0.01
        elif self.fault == "nan scores":
            score[:, 0] = np.nan
        elif self.fault == "nan code scores":
            code_score[:, 0] = np.nan
        elif self.fault == "nan prefix scores":
            prefix_score[:, 0] = np.nan
        elif self.fault == "order":
            item, score, code_score = item[:, ::-1], score[:, ::-1], code_score[:, ::-1]
            prefix_score = prefix_score[:, ::-1]
        elif self.fault == "other item":
            item[:, 0] = (item[:, 0] + 1) % 60
        elif self.fault == "double item":
            item[:, 1] = item[:, 0]
        elif self.fault == "missing item":
            item[:, -1] = -1
        elif self.fault == "other last item":
            item[:, -1] = [min(set(range(60)).difference(row)) for row in item.tolist()]
        return SearchResult(item, score, code_score, prefix_score)


@pytest.fixture(scope="module")
def exported(open_to_new_items: Artifact) -> tuple[Package, Twisted, CodeTrie]:
    package = tiny_package()
    trie, graph = CodeTrie.build(package.codes), open_to_new_items.graph_path(WIDTH)
    search = Twisted(graph, package.catalog(trie), trie.code_length, package.history_buckets)
    return package, search, trie


@pytest.mark.parametrize(
    "fault",
    [
        "scores",
        "code scores",
        "prefix scores",
        "nan scores",
        "nan code scores",
        "nan prefix scores",
        "order",
        "other item",
        "double item",
        "missing item",
    ],
)
def test_a_graph_that_answers_otherwise_is_refused(exported: tuple[Package, Twisted, CodeTrie], fault: str) -> None:
    package, search, trie = exported
    rows = search_rows(trie, package.histories, exclude_seen=True)
    search.fault = ""
    assert prove_parity(package.generator, [search], trie, rows, WIDTH, 0.5) == 0
    search.fault = fault
    with pytest.raises(ExportError, match="differ on history"):
        prove_parity(package.generator, [search], trie, rows, WIDTH, 0.5)


@pytest.mark.parametrize("place", [0, 1])
def test_every_graph_of_a_width_is_proved(
    exported: tuple[Package, Twisted, CodeTrie], open_to_new_items: Artifact, place: int
) -> None:
    package, search, trie = exported
    rows, right = search_rows(trie, package.histories, exclude_seen=True), open_to_new_items.cpu_graph_path(WIDTH)
    searches = [GraphSearch(right, package.catalog(trie), trie.code_length, package.history_buckets)]
    searches.insert(place, search)
    search.fault = "scores"
    with pytest.raises(ExportError, match=rf"^{search.name} and the numpy reference differ"):
        prove_parity(package.generator, searches, trie, rows, WIDTH, 0.5)


@pytest.mark.parametrize("fault", ["scores", "missing item"])
def test_ties_at_a_beams_edge_excuse_no_wrong_score(exported: tuple[Package, Twisted, CodeTrie], fault: str) -> None:
    package, search, trie = exported
    rows = search_rows(trie, package.histories, exclude_seen=True)
    kept = package.generator.token_output.detach().clone()
    with torch.no_grad():
        package.generator.token_output.zero_()  # every token as likely as any other: nothing but ties
    search.fault = fault
    with pytest.raises(ExportError):
        prove_parity(package.generator, [search], trie, rows, WIDTH, 0.5)
    with torch.no_grad():
        package.generator.token_output.copy_(kept)


@pytest.mark.parametrize(("share", "excused"), [(0.9, True), (1.1, False)])
def test_a_beams_edge_is_as_narrow_as_scores_of_their_size_are_exact(
    exported: tuple[Package, Twisted, CodeTrie], monkeypatch: pytest.MonkeyPatch, share: float, excused: bool
) -> None:
    def at_an_edge(*arguments: Any) -> Candidates:
        found = reference(*arguments)
        largest = float(np.abs(found.score).max())
        assert largest > 20
        return replace(found, edge_gap=share * SCORE_TOLERANCE * largest / 10)

    package, search, trie = exported
    rows = search_rows(trie, package.histories, exclude_seen=True)
    monkeypatch.setattr(export, "reference", at_an_edge)
    search.fault = "other last item"
    with nullcontext() if excused else pytest.raises(ExportError, match="other items"):
        prove_parity(package.generator, [search], trie, rows[:1], WIDTH, 100.0)


def test_large_item_scores_are_compared_at_their_size(exported: tuple[Package, Twisted, CodeTrie]) -> None:
    package, search, trie = exported
    rows = search_rows(trie, package.histories, exclude_seen=True)
    search.fault = ""
    assert search(rows, 100.0).score.max() > 1000
    prove_parity(package.generator, [search], trie, rows, WIDTH, 100.0)
