"""Why an item came back: its code with the probability of each token, and the history items whose codes begin alike."""

from typing import Final

import numpy as np
from numpy.typing import NDArray

from service.catalog.items import LiveItems
from service.frames import Explanation

_NEAREST: Final = 3


def explain(
    items: LiveItems,
    codes: NDArray[np.int32],
    found: NDArray[np.int32],
    history: NDArray[np.int32],
    prefix_score: NDArray[np.float32] | None,
) -> list[Explanation]:
    """One explanation for each item index in `found`.

    codes         int32 [N, L]
    history       int32 [used], oldest first
    prefix_score  float32 [len(found), L] as the search gives it, None where it did not search
    """
    newest_first = np.array(list(dict.fromkeys(history[::-1].tolist())), dtype=np.int32)
    shared = _shared_prefixes(codes[found], codes[newest_first])
    steps = None if prefix_score is None else np.diff(prefix_score, axis=1, prepend=np.float32(0)).tolist()
    explanations: list[Explanation] = []
    for place, item in enumerate(found.tolist()):
        order = np.argsort(-shared[place], kind="stable")[:_NEAREST]
        nearest = [
            (items.item_id(int(newest_first[near])), int(shared[place, near]))
            for near in order.tolist()
            if shared[place, near]
        ]
        log_probs = steps[place] if steps is not None else []
        explanations.append(Explanation(codes[item].tolist(), log_probs, nearest, items.attributes_json(item)))
    return explanations


def _shared_prefixes(codes: NDArray[np.int32], others: NDArray[np.int32]) -> NDArray[np.int64]:
    """How many first tokens each of `codes` [M, L] shares with each of `others` [H, L]; int64 [M, H]."""
    same = codes[:, None] == others[None]
    return np.asarray(np.logical_and.accumulate(same, axis=2).sum(axis=2))
