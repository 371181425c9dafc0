"""The networks that are measured: random weights, exported once by the same code as trained ones."""

import hashlib
import shutil
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import onnx

from models.artifact import Artifact
from models.config import ModelConfig
from models.network import Generator
from training.config import PRESETS

from ..synthetic import untrained_network, write_untrained

NETWORKS: Final = {
    "encoder_decoder": ModelConfig(
        generator="encoder_decoder",
        width=128,
        heads=2,  # a head has width / heads; 6 heads of 64 would need an inner width that the network does not have
        feed_forward=1024,
        encoder_layers=4,
        decoder_layers=4,
        dropout=0.0,
    ),
    "temporal": ModelConfig(dropout=0.0),
    "small": PRESETS["small"].model.model_copy(update={"dropout": 0.0, "decoder_dropout": None}),  # temporal with gate
}
BEAM_WIDTHS: Final = (20, 50, 128, 256)
HISTORY_BUCKETS: Final = (5, 20, 50)
_ITEMS: Final = 10_000
_SPREAD: Final = 16.0  # scores of an untrained network lie so close that two runtimes would order them differently
_ROOT: Final = Path(__file__).parents[2]


@dataclass(frozen=True)
class Prepared:
    """A network twice: as torch module for the peers, and exported into an artifact for the engine."""

    name: str
    network: Generator
    artifact: Artifact

    @property
    def config(self) -> ModelConfig:
        return self.network.config

    def variant(self, name: str, export: Callable[[], onnx.ModelProto]) -> onnx.ModelProto:
        """A graph of the same weights that is kept beside the artifact's, exported at its first use."""
        path = self.artifact.folder / f"variant_{name}.onnx"
        if not path.exists():
            onnx.save(export(), path)
        return onnx.load(path)


def prepare(name: str, work: Path) -> Prepared:
    """The network called `name`, exported below `work`; one that the same code exported before is used again."""
    return prepare_network(name, NETWORKS[name], work, items=_ITEMS, widths=BEAM_WIDTHS, buckets=HISTORY_BUCKETS)


def prepare_network(
    name: str, config: ModelConfig, work: Path, *, items: int, widths: Sequence[int], buckets: Sequence[int]
) -> Prepared:
    """The same for any size."""
    network = untrained_network(config, spread=_SPREAD)
    target = work / f"{name}-{_fingerprint(config, items, widths, buckets)}"
    if target.exists():
        return Prepared(name, network, Artifact.open(target))
    for outdated in work.glob(f"{name}-*"):
        shutil.rmtree(outdated)
    work.mkdir(parents=True, exist_ok=True)
    written = write_untrained(target, items, network, beam_widths=tuple(widths), history_buckets=tuple(buckets))
    return Prepared(name, network, written)


def _fingerprint(*parts: object) -> str:
    """Of everything that decides what is exported: a changed graph must not be measured from an old file."""
    digest = hashlib.sha256(repr(parts).encode())
    sources = [*sorted((_ROOT / "models").glob("*.py")), _ROOT / "training/export.py", _ROOT / "deploy/synthetic.py"]
    for source in sources:
        digest.update(source.read_bytes())
    return digest.hexdigest()[:12]
