"""The contract of the exported search graph: what it is fed, in which shapes, and how rows become a batch.

One `run` of the graph encodes B histories and walks the trie L times. Everything indexed by item or by state is an
input, so the catalog can change under a fixed graph:

    history         int32 [B, T]      item indices, oldest first, padded with -1 on the left
    item_input      float32 [N, D]    what an item contributes to the history          (temporal)
    item_output     float32 [N, D]    what the user state is multiplied with to score an item
    prefix_output   float32 [M, D]    the same for prefixes that several items share (`models.prefix_output`)
    prefix_row_l    int32 [S_{l+1}]   for l = 0 … L - 2: r ≥ 0 is item r's vector, r < 0 is row -1 - r of prefix_output
    item_code       int32 [N, L]      codes                                             (encoder_decoder)
    leaf_item       int32 [N]
    child_start_l   int32 [S_l + 1]   for l = 0 … L - 1
    child_token_l   int32 [S_{l+1}]
    child_offset_l  int32 [W_l]       0 … W_l - 1, W_l at least the level's largest branching
    alive_l         int32 [F, C_l]    per filter slot: how many legal leaves the state holds, C_l at least S_{l+1}
    slot            int32 [B]         filter slot of each row
    dead_parent_l   int32 [B, X_l]    subtrees this row must skip (`CodeTrie.dead_states`), padded with -1
    dead_offset_l   int32 [B, X_l]
    rescore_weight  float32 []        weight of what the item head says of prefixes and items; 0 searches by code alone

    item        int32 [B, K]    item indices, best first, -1 where no legal leaf is left
    score       float32 [B, K]  what the order follows
    code_score  float32 [B, K]  log-probability of the code among those of all items
    prefix_score  float32 [B, K, L]  log-probability of the code's first 1 … L tokens; means nothing where item is -1

Arrays of items and states may be longer than what is used.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from .artifact import Artifact
from .trie import CodeTrie, DeadStates

OUTPUTS = ("item", "score", "code_score", "prefix_score")
Inputs = dict[str, NDArray[Any]]


@dataclass(frozen=True)
class SearchRow:
    """One request as the graph sees it.

    history  int32 [t], item indices, oldest first, t of any length
    dead     one entry a level, from `CodeTrie.dead_states`; empty tuple when nothing is excluded
    slot     filter slot
    """

    history: NDArray[np.int32]
    dead: Sequence[DeadStates] = ()
    slot: int = 0


def trie_inputs(trie: CodeTrie) -> Inputs:
    """The trie's share of the graph's inputs, with one filter slot in which every leaf is legal."""
    inputs: Inputs = {"leaf_item": trie.leaf_item}
    for level in range(trie.code_length):
        inputs[f"child_start_{level}"] = trie.child_start[level]
        inputs[f"child_token_{level}"] = trie.child_token[level]
        inputs[f"child_offset_{level}"] = np.arange(trie.branching[level], dtype=np.int32)
        inputs[f"alive_{level}"] = trie.leaf_counts[level][None]
    return inputs


def catalog_inputs(artifact: Artifact) -> Inputs:
    """Every input that belongs to the catalog and not to a request."""
    inputs = trie_inputs(artifact.trie)
    inputs |= artifact.prefix_output.inputs()
    inputs["item_output"] = artifact.array("item_output")
    if artifact.manifest.config.generator == "temporal":
        inputs["item_input"] = artifact.array("item_input")
    else:
        inputs["item_code"] = artifact.codes.tokens
    return inputs


def bucket_for(length: int, buckets: Sequence[int]) -> int:
    """The shortest bucket that holds `length` history items, or the longest there is."""
    return next((bucket for bucket in buckets if bucket >= length), buckets[-1])


def request_inputs(rows: Sequence[SearchRow], bucket: int, code_length: int, rescore_weight: float) -> Inputs:
    """Stacks rows into one batch; of a history longer than `bucket` the newest items are kept."""
    history = np.full((len(rows), bucket), -1, dtype=np.int32)
    for place, row in enumerate(rows):
        newest = row.history[-bucket:]
        if len(newest):
            history[place, -len(newest) :] = newest
    inputs: Inputs = {
        "history": history,
        "slot": np.fromiter((row.slot for row in rows), dtype=np.int32, count=len(rows)),
        "rescore_weight": np.array(rescore_weight, dtype=np.float32),
    }
    for level in range(code_length):
        parent, offset = _stack_dead([row.dead[level] if row.dead else None for row in rows])
        inputs[f"dead_parent_{level}"], inputs[f"dead_offset_{level}"] = parent, offset
    return inputs


def fill_request_inputs(rows: Sequence[SearchRow], rescore_weight: float, arrays: Inputs) -> None:
    """Writes rows into arrays of fixed shapes, as named above; rows that are left over search for an empty history.

    Of a history longer than T the newest items are kept; the dead states of a row must fit into X. `arrays` holds a
    level's dead states only as far as there are arrays of that name.
    """
    history = arrays["history"]
    newest = [row.history[-history.shape[1] :] for row in rows]
    lengths = np.fromiter(map(len, newest), dtype=np.int64, count=len(rows))
    _write_ragged(history[:, ::-1], [part[::-1] for part in newest], lengths, -1)
    arrays["slot"][:] = 0
    arrays["slot"][: len(rows)] = [row.slot for row in rows]
    arrays["rescore_weight"][...] = rescore_weight
    for level in range(sum(name.startswith("dead_parent_") for name in arrays)):
        dead = [row.dead[level] for row in rows if row.dead]
        lengths = np.array([row.dead[level].parent.size if row.dead else 0 for row in rows], dtype=np.int64)
        _write_ragged(arrays[f"dead_parent_{level}"], [states.parent for states in dead], lengths, -1)
        _write_ragged(arrays[f"dead_offset_{level}"], [states.offset for states in dead], lengths, 0)


def _write_ragged(array: NDArray[Any], parts: Sequence[NDArray[Any]], lengths: NDArray[np.int64], padding: int) -> None:
    """Row by row from the left; `lengths` are those of the first rows, the others are empty."""
    array[...] = padding
    if lengths.any():
        filled = np.arange(array.shape[1]) < lengths[:, None]
        array[: len(lengths)][filled] = np.concatenate(parts)


def _stack_dead(dead: Sequence[DeadStates | None]) -> tuple[NDArray[np.int32], NDArray[np.int32]]:
    """Pads to a power of two, so that few different shapes reach the runtime."""
    longest = max((entry.parent.size for entry in dead if entry is not None), default=0)
    width = 1 << max(0, longest - 1).bit_length()
    parent = np.full((len(dead), width), -1, dtype=np.int32)
    offset = np.zeros((len(dead), width), dtype=np.int32)
    for place, entry in enumerate(dead):
        if entry is not None:
            parent[place, : entry.parent.size] = entry.parent
            offset[place, : entry.offset.size] = entry.offset
    return parent, offset
