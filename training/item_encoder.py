"""The item encoder: from an item's text embedding to the vectors that a trained model would have learned for it.

E_S → standardised → adaptation layer → E_T, and from E_T by ridge regressions, fitted on the items that training
learned about, what those items have: stage I's E_C, for the integrated embedding, and the item vectors of the finished
generator. The same network stands in for the other items of the catalog.
"""

import copy
import logging
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import onnx
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from models.artifact import ITEM_ENCODER
from models.item_encoder import OUTPUTS, EncodedItems, ItemGraph

from .collaborative import AdaptationLayer, Collaborative, collaborative_from_text, history_input, integrate
from .config import Integrated
from .errors import ExportError
from .export import quiet_export
from .item_gain import Events, choose_gain, spread, try_gains
from .ridge import fit_ridge
from .text import Standardisation

TOLERANCE = 1e-4
_RIDGE = 1e-2
_LOG = logging.getLogger(__name__)


class ItemEncoderNetwork(nn.Module):
    """What is exported.

    collaborative  E_T → E_C as stage I has it
    item           E_T → item vector of the generator
    item_mean      float32 [D] of learned item vectors; before they score, predicted ones are moved away from it
    gain           by this factor (`training.item_gain`)
    project        integrated embedding → its part of what an item adds to a history; None for the encoder–decoder
    """

    mean: Tensor
    deviation: Tensor
    item_mean: Tensor

    def __init__(
        self,
        standardisation: Standardisation,
        adaptation: AdaptationLayer,
        collaborative: nn.Linear,
        item: nn.Linear,
        item_mean: Tensor,
        gain: float,
        project: nn.Linear | None,
        integrated: Integrated,
    ) -> None:
        super().__init__()
        self.register_buffer("mean", torch.from_numpy(standardisation.mean))
        self.register_buffer("deviation", torch.from_numpy(standardisation.deviation))
        self.adaptation = copy.deepcopy(adaptation)
        self.collaborative = collaborative
        self.item = item
        self.register_buffer("item_mean", item_mean)
        self.gain = gain
        self.project = copy.deepcopy(project)
        self.kind: Integrated = integrated

    def forward(self, semantic: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Raw E_S [M, D_S] → (integrated [M, D_I], item_output [M, D], item_input [M, D] or [M, 0])."""
        standard = (semantic - self.mean) / self.deviation
        adapted = self.adaptation(standard)
        integrated = integrate(self.kind, self.collaborative(adapted), adapted, standard)
        item = self.item(adapted)
        item_input = item[:, :0] if self.project is None else history_input(item) + self.project(integrated)
        return integrated, spread(item, self.item_mean, self.gain), item_input

    def encode(self, semantic: NDArray[np.float32]) -> EncodedItems:
        """The same for arrays, in torch."""
        with torch.no_grad():
            return EncodedItems(*(part.numpy() for part in self(torch.from_numpy(semantic))))


def best_gain(stage1: Collaborative, vectors: Tensor, warm: Tensor, events: Events) -> float:
    """Chosen on validation events; arguments as of `fit_item_encoder`."""
    with torch.no_grad():
        trials = try_gains(stage1.adaptation(stage1.semantic), vectors, warm, events, _RIDGE)
    gain = choose_gain(trials)
    tried = ", ".join(f"{trial.gain:.2f}: {trial.new:.3f} / {trial.known:.3f}" for trial in trials) or "nothing to try"
    _LOG.info("item encoder: factor %.2f (recall of new / known items by factor: %s)", gain, tried)
    return gain


def fit_item_encoder(
    stage1: Collaborative,
    vectors: Tensor,
    warm: Tensor,
    gain: float,
    standardisation: Standardisation,
    project: nn.Linear | None,
    integrated: Integrated,
) -> ItemEncoderNetwork:
    """Fitted on the items that training learned about, `warm` bool [N].

    vectors  [N, D], item vectors of the finished generator
    """
    with torch.no_grad():
        adapted = stage1.adaptation(stage1.semantic)
    item = fit_ridge(adapted[warm], vectors[warm], _RIDGE)
    return ItemEncoderNetwork(
        standardisation,
        stage1.adaptation,
        collaborative_from_text(stage1, warm),
        item,
        vectors[warm].mean(dim=0),
        gain,
        project,
        integrated,
    )


@dataclass(frozen=True)
class ItemEncoderPart:
    """What an artifact needs to take new items.

    codebooks    float32 [L, V, D_I]
    token_input  float32 [L, V, D], what each token of its code adds to an item's part in a history; None for the
                 encoder–decoder
    semantic     float32 [R, D_S], raw embeddings on which the exported networks must prove themselves
    """

    network: ItemEncoderNetwork
    codebooks: NDArray[np.float32]
    token_input: NDArray[np.float32] | None
    semantic: NDArray[np.float32]


def export_item_encoder(network: ItemEncoderNetwork, semantic: NDArray[np.float32], folder: Path) -> None:
    """Writes the graph into `folder`; raises ExportError unless it gives what torch gives, within 1e-4."""
    rows = torch.zeros(3, semantic.shape[1])  # the exporter would freeze a dimension of size 1
    shapes = ({0: torch.export.Dim.DYNAMIC},)
    graph = quiet_export(network.eval(), (rows,), shapes, ["semantic"], list(OUTPUTS))
    onnx.save_model(graph, folder / ITEM_ENCODER)
    found, wanted = ItemGraph(folder / ITEM_ENCODER)(semantic), network.encode(semantic)
    for name in OUTPUTS:
        gap = np.abs(getattr(found, name) - getattr(wanted, name)).max(initial=0.0)
        if not gap <= TOLERANCE:
            raise ExportError(f"the exported item encoder's {name} differs from torch by {gap:.1e}")
