"""Golden requests: what a model answered when it was exported, and so must answer here."""

from collections.abc import Iterator
from typing import Any, Final

from models.artifact import Artifact
from service.frames import Answer, Query

from .catalog import Catalog, FoundRow
from .search import Search

_TOLERANCE: Final = 1e-3  # of a score, between the machine that exported and this one
_MISPLACED: Final = 0.1  # share of a row's items that a near-tie at a beam's edge may exchange
_K: Final = 10


class GoldenError(Exception):
    """The model does not answer as it did when it was exported."""


def check_golden(artifact: Artifact, catalog: Catalog, search: Search, least_overlap: float | None = None) -> float:
    """Share of the items recorded at export, the first ten of each request, that are among the first ten here.

    Raises GoldenError where an answer is not the recorded one or, with `least_overlap`, only where the share is below
    that: a model that computes in other numbers than at export answers a little differently.
    """
    version, recorded, found = artifact.manifest.model_version, 0, 0
    for number, (golden, answer) in enumerate(_answers(artifact, catalog, search)):
        if least_overlap is None and (fault := _difference(answer, golden)):
            raise GoldenError(f"golden request {number} of model {version} has another answer here: {fault}")
        recorded += len(golden["items"])
        found += len(set(golden["items"]) & set(answer.item_ids))
    overlap = found / recorded if recorded else 1.0
    if least_overlap is not None and overlap < least_overlap:
        limit = f"PROREC_PRECISION_OVERLAP_PERCENT is {100 * least_overlap:g}"
        raise GoldenError(f"model {version} finds {100 * overlap:.1f} % of the items of its golden requests; {limit}")
    return overlap


def _answers(artifact: Artifact, catalog: Catalog, search: Search) -> Iterator[tuple[dict[str, Any], Answer]]:
    """Every golden request with the answer it gets here."""
    k = min(_K, artifact.manifest.default_beam_width)
    for golden in artifact.golden():
        yield golden, _ask(catalog, search, golden, k)


def _ask(catalog: Catalog, search: Search, golden: dict[str, Any], k: int) -> Answer:
    ticket = catalog.ticket(Query(0, golden["history"], k, deadline=0.0))
    if ticket.prepared.request.popular:
        return catalog.popular(ticket)
    found = search.run([ticket.prepared.row], ticket.prepared.shape)
    return catalog.answer(ticket, FoundRow.of(found, 0))


def _difference(answer: Answer, golden: dict[str, Any]) -> str | None:
    items, scores = golden["items"], golden["scores"]
    if len(items) != len(answer.item_ids):
        return f"{len(answer.item_ids)} items instead of {len(items)}"
    expected = dict(zip(items, scores, strict=True))
    misplaced = [item for item in answer.item_ids if item not in expected]
    if len(misplaced) > _MISPLACED * len(items):
        return f"items {', '.join(misplaced)} do not belong there"
    for item, score in zip(answer.item_ids, answer.scores, strict=True):
        if abs(score - expected.get(item, score)) > _TOLERANCE * max(1.0, abs(score)):
            return f"item {item} scores {score:.4f} instead of {expected[item]:.4f}"
    return None
