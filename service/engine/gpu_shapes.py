"""Shapes that batches on a GPU have, and which captured graph belongs to which of them.

A captured CUDA graph replays what one shape did. Batches are padded to few sizes, so that nearly every one of them
finds its graph.
"""

from dataclasses import dataclass
from typing import Final

NOT_CAPTURED: Final = -1
"""ONNX Runtime's `gpu_graph_id` of a run that is neither captured nor replayed; 0 is its own."""
_STEPS: Final = (2, 3)  # sizes are 1 and 2^n times these: padding costs a third at most
MOST_GRAPHS: Final = 512
"""Captured graphs of one search; shapes that come later run without."""


@dataclass(frozen=True)
class BatchShape:
    """Everything that decides the shapes of a run: K beams, T history items, B rows, X dead states a level."""

    width: int
    bucket: int
    rows: int
    dead: int


def batch_sizes(most: int) -> tuple[int, ...]:
    """Ascending sizes that batches of 1 … `most` rows are padded to; the last is `most`."""
    sizes = {1, most}
    for step in _STEPS:
        while step < most:
            sizes.add(step)
            step *= 2
    return tuple(sorted(sizes))


class GraphIds:
    """Hands out ids from 1, each to one shape for good.

    ONNX Runtime replays what it captured under an id, whatever the shape of what is bound: an id that two shapes shared
    would answer one of them with the other's memory.
    """

    def __init__(self, *, longest_dead: int, most: int = MOST_GRAPHS) -> None:
        self._longest_dead, self._most = longest_dead, most
        self._ids: dict[BatchShape, int] = {}

    def of(self, shape: BatchShape) -> int:
        """The id of a shape; NOT_CAPTURED where its dead lists are long, which is rare, or where ids have run out."""
        if shape.dead > self._longest_dead:
            return NOT_CAPTURED
        if shape not in self._ids and len(self._ids) < self._most:
            self._ids[shape] = len(self._ids) + 1
        return self._ids.get(shape, NOT_CAPTURED)
