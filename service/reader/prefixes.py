"""What may follow a prefix of tokens: the trie of the trained items, with added ones in it and removed ones out."""

import json
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import islice
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from models.trie import CodeTrie
from service.catalog.items import LiveItems
from service.errors import UnknownPrefix

_TITLES: Final = 3
_LOOKED_AT: Final = 16  # trained items of a child that are looked at for titles
_EMPTY: Final = np.empty(0, dtype=np.int64)


@dataclass(frozen=True)
class _Below:
    """Leaves of the trained trie under each child of a state, from `first` up to `end`; arrays int64 [children]."""

    token: NDArray[np.int64]
    first: NDArray[np.int64]
    end: NDArray[np.int64]


def children_document(items: LiveItems, prefix: Sequence[int], limit: int) -> bytes:
    """{prefix, level, item_count, children: [{token, prefix, item_count, titles}], truncated}, by token.

    Raises UnknownPrefix where no item's code begins like that. A whole code has no children.
    """
    length = items.artifact.manifest.config.code_length
    level = len(prefix)
    added, removed = _with_prefix(items, items.added_items(), prefix), _with_prefix(items, _trained(items), prefix)
    below = _below(items.artifact.trie, prefix[: length - 1])
    if level == length:  # the one child of its parent that the last token names
        below = _only(below, prefix[-1])
    count = int((below.end - below.first).sum()) + len(added) - len(removed)
    if level > length or (level and count == 0):
        raise UnknownPrefix(f"no item's code begins with {'.'.join(map(str, prefix))}")
    children = [] if level == length else list(_children(items, prefix, below, added, removed))
    document = {
        "prefix": list(prefix),
        "level": level,
        "item_count": count,
        "children": [_child(items, prefix, *child) for child in children[:limit]],
        "truncated": len(children) > limit,
    }
    return json.dumps(document, ensure_ascii=False).encode()


_Child = tuple[int, int, range, list[int]]  # token, items, leaves, added items


def _children(
    items: LiveItems, prefix: Sequence[int], below: _Below, added: Sequence[int], removed: Sequence[int]
) -> Iterator[_Child]:
    level, tokens_per_level = len(prefix), items.artifact.manifest.config.tokens_per_level
    counts = np.zeros(tokens_per_level, dtype=np.int64)
    counts[below.token] = below.end - below.first
    newer: dict[int, list[int]] = {}
    for index in added:
        newer.setdefault(items.code(index)[level], []).append(index)
    for token, indices in newer.items():
        counts[token] += len(indices)
    for index in removed:
        counts[items.code(index)[level]] -= 1
    leaves = {
        token: range(first, end)
        for token, first, end in zip(below.token.tolist(), below.first.tolist(), below.end.tolist(), strict=True)
    }
    for token in np.flatnonzero(counts).tolist():
        yield token, int(counts[token]), leaves.get(token, range(0)), newer.get(token, [])


def _child(
    items: LiveItems, prefix: Sequence[int], token: int, count: int, leaves: range, added: Sequence[int]
) -> dict[str, Any]:
    trained = items.artifact.trie.leaf_item[leaves.start : min(leaves.stop, leaves.start + _LOOKED_AT)].tolist()
    shown = islice((index for index in (*trained, *added) if not items.is_removed(index)), _TITLES)
    return {
        "token": token,
        "prefix": [*prefix, token],
        "item_count": count,
        "titles": [_title(items, index) for index in shown],
    }


def _title(items: LiveItems, index: int) -> str:
    """The item's title or name, or else its id."""
    metadata = json.loads(items.metadata_json(index))
    named = (metadata.get(name) for name in ("title", "name"))
    return next((name for name in named if isinstance(name, str) and name), items.item_id(index))


def _trained(items: LiveItems) -> Iterable[int]:
    return (index for index in items.removed_items() if index < items.trained)


def _with_prefix(items: LiveItems, indices: Iterable[int], prefix: Sequence[int]) -> list[int]:
    wanted = tuple(prefix)
    return [index for index in indices if items.code(index)[: len(wanted)] == wanted]


def _below(trie: CodeTrie, prefix: Sequence[int]) -> _Below:
    state = _state(trie, prefix)
    if state is None:
        return _Below(_EMPTY, _EMPTY, _EMPTY)
    level = len(prefix)
    start, stop = (int(bound) for bound in trie.child_start[level][state : state + 2])
    bounds = np.arange(start, stop + 1)  # of the children, then of their children, down to the leaves
    for starts in trie.child_start[level + 1 :]:
        bounds = starts[bounds].astype(np.int64)
    return _Below(trie.child_token[level][start:stop].astype(np.int64), bounds[:-1], bounds[1:])


def _state(trie: CodeTrie, prefix: Sequence[int]) -> int | None:
    """Row of the state that a prefix leads to; None: no trained item is there."""
    state = 0
    for level, token in enumerate(prefix):
        start, stop = (int(bound) for bound in trie.child_start[level][state : state + 2])
        siblings = trie.child_token[level][start:stop]
        offset = int(np.searchsorted(siblings, token))
        if offset == len(siblings) or siblings[offset] != token:
            return None
        state = start + offset
    return state


def _only(below: _Below, token: int) -> _Below:
    here = below.token == token
    return _Below(below.token[here], below.first[here], below.end[here])
