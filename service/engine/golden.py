"""The answers recorded at export, asked for again: an engine proves itself by them before it serves.

In the precision of the export they must come back, scores and all. A less exact precision answers otherwise now and
then; how often is measured here, told, and limited.
"""

from typing import Any

from models.artifact import Artifact
from service.frames import Answer, Query

from .catalog import Catalog, Place
from .search import Search

_TOLERANCE = 1e-3  # of a score, between the machine that exported and this one
_MISPLACED = 0.1  # share of a row's items that a near-tie at a beam's edge may exchange


class GoldenError(Exception):
    """The model does not answer as it did when it was exported."""


def check_golden(artifact: Artifact, catalog: Catalog, search: Search) -> None:
    """Raises GoldenError unless the answers recorded at export come back."""
    for number, golden in enumerate(artifact.golden()):
        answer = _ask(catalog, search, golden, min(10, artifact.manifest.default_beam_width))
        if fault := _difference(answer, golden):
            version = artifact.manifest.model_version
            raise GoldenError(f"golden request {number} of model {version} has another answer here: {fault}")


def golden_overlap(artifact: Artifact, catalog: Catalog, search: Search) -> float:
    """Share of the recorded items that come back, over all recorded answers; 1.0 where nothing was recorded."""
    common = expected = 0
    for golden in artifact.golden():
        answer = _ask(catalog, search, golden, min(10, artifact.manifest.default_beam_width))
        common += len(set(golden["items"]).intersection(answer.item_ids))
        expected += len(golden["items"])
    return common / expected if expected else 1.0


def check_overlap(overlap: float, least_percent: float, precision: str) -> None:
    """Raises GoldenError where a precision changes too many answers."""
    if 100 * overlap < least_percent:
        raise GoldenError(
            f"in {precision} only {100 * overlap:.1f} % of the golden answers' items come back; "
            f"PROREC_MIN_OVERLAP_PERCENT is {least_percent:g}"
        )


def _ask(catalog: Catalog, search: Search, golden: dict[str, Any], k: int) -> Answer:
    ticket = catalog.ticket(Query(0, golden["history"], k, deadline=0.0))
    if ticket.prepared.request.popular:
        return catalog.popular(ticket)
    found = search.run([ticket.prepared.row], ticket.prepared.shape)
    return catalog.answer(ticket, Place.of(found, 0))


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
