"""What a machine with a GPU is given to measure: exported networks and histories, in one folder that is carried there.

FOLDER/<network>/<artifact>/          the network over a random catalog, as the engine loads it
FOLDER/<network>/search_b20.fp16.onnx its graphs with the network in 16 bits
FOLDER/<network>/network_only.onnx    the network without trie and selection
FOLDER/trained/<artifact>/            optional: a trained model
FOLDER/trained/histories.npz          and the histories of users of its data
"""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Final

import numpy as np
from numpy.typing import NDArray

from models.artifact import MANIFEST, Artifact
from models.config import ModelConfig
from models.graph import Inputs, SearchRow

from ..errors import BenchError

NETWORKS: Final = ("temporal", "encoder_decoder", "small")
BEAMS: Final = (20, 50)
TRAINED: Final = "trained"
HISTORIES: Final = "histories.npz"
NETWORK_ONLY: Final = "network_only.onnx"


def half_file(width: int) -> str:
    return f"search_b{width}.fp16.onnx"


@dataclass(frozen=True)
class Candidate:
    """One network of the folder."""

    name: str
    artifact: Artifact
    folder: Path

    def models(self, precision: str, beams: tuple[int, ...]) -> dict[int, Path | bytes]:
        """Beam width → graph; raises BenchError where the folder has none of that precision."""
        paths = {
            width: self.artifact.graph_path(width) if precision == "fp32" else self.folder / half_file(width)
            for width in beams
        }
        if missing := sorted(str(path) for path in paths.values() if not path.exists()):
            raise BenchError(f"no {precision} graphs of {self.name}: {', '.join(missing)}")
        return {**paths}

    @property
    def network_only(self) -> Path:
        return self.folder / NETWORK_ONLY


def candidate(work: Path, name: str) -> Candidate:
    """The network called `name`; raises BenchError where the folder does not have it."""
    found = [path.parent for path in (work / name).glob(f"*/{MANIFEST}")]
    if len(found) != 1:
        raise BenchError(f"{work / name} holds {len(found)} artifacts instead of one; was it prepared?")
    return Candidate(name, Artifact.open(found[0], verify=False), work / name)


def write_histories(path: Path, histories: list[NDArray[np.int32]]) -> None:
    bounds = np.cumsum([0, *map(len, histories)], dtype=np.int64)
    np.savez(path, items=np.concatenate(histories), bounds=bounds)


def read_histories(path: Path) -> list[NDArray[np.int32]]:
    """As they were written, int32 [t] each."""
    with np.load(path) as stored:
        items, bounds = stored["items"], stored["bounds"]
    return [items[start:end] for start, end in pairwise(bounds)]


def random_histories(artifact: Artifact, count: int, length: int, seed: int = 0) -> list[NDArray[np.int32]]:
    """`count` of `length` different items each, drawn evenly, int32."""
    rng, items = np.random.default_rng(seed), artifact.manifest.item_count
    return [rng.choice(items, length, replace=False, shuffle=False).astype(np.int32) for _ in range(count)]


def random_rows(artifact: Artifact, count: int, length: int, seed: int = 0) -> list[SearchRow]:
    """Searches with random histories, whose items may come back."""
    return [SearchRow(history) for history in random_histories(artifact, count, length, seed)]


def random_choices(config: ModelConfig, rows: int, beams: int) -> Inputs:
    """What a network without trie and selection is fed for `rows` searches: some choice of tokens and beams at every
    level but the first, int64 [rows, beams] each. Which one does not change the work."""
    rng, fed = np.random.default_rng(0), Inputs()
    for level in range(1, config.code_length):
        fed[f"token_{level}"] = rng.integers(0, config.tokens_per_level, (rows, beams))
        fed[f"beam_{level}"] = rng.integers(0, 1 if level == 1 else beams, (rows, beams))
    return fed


def unseen_rows(artifact: Artifact, histories: Sequence[NDArray[np.int32]]) -> list[SearchRow]:
    """Searches for what a user has not had yet."""
    trie = artifact.trie
    return [SearchRow(history, trie.dead_states(trie.item_leaf[history])) for history in histories]
