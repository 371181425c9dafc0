"""Codes for new items, written by the generator itself.

The nearest code in the space of the integrated embeddings is mostly one the generator has learned not to write: below a
known prefix it expects the known items, so the beam drops the new one. The first token is therefore the nearest, and
keeps the item among its like, and the rest is what the generator would write: the item's vector finds the user states
that score it highest, in a sample of them, and from their mean the most probable codes are listed. Not the most
probable of all: known items' own codes are measured the same way, and no new item gets a code that is more probable
than all but a twentieth of theirs, or a few new items would fill every beam.
"""

import copy
from pathlib import Path

import numpy as np
import onnx
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor, nn

from models.artifact import CODE_WRITER
from models.item_encoder import CANDIDATES, ROWS_PER_WRITING, CodeWriterGraph, padded_rows
from models.network import Context, TemporalGenerator

from .errors import ExportError
from .export import quiet_export
from .ridge import fit_ridge

TOLERANCE = 1e-4
_RIDGE = 1e-2
_LEAST_VARIANCE = 1e-6  # where all items have one text
_STATES = 32
_BEAMS = 32
_CANDIDATES = 64
_CEILING = 0.95
_MEASURED = 4096
_TOO_PROBABLE = -1e4  # still a code to try, when nothing else is free


class CodeWriter(nn.Module):
    """What is exported.

    generator  decoder and output vectors of a finished temporal generator with codes of at least two tokens
    vector     integrated embedding [D_I] → item vector [D]
    states     [R, D], user states of real histories
    centroids  [V, D_I], of the first level
    ceiling    log-probability no listed code exceeds
    """

    states: Tensor
    centroids: Tensor

    def __init__(
        self,
        generator: TemporalGenerator,
        vector: nn.Linear,
        states: Tensor,
        centroids: Tensor,
        ceiling: float = float("inf"),
    ) -> None:
        super().__init__()
        self.generator = copy.deepcopy(generator)
        self.vector = vector
        self.register_buffer("states", states)
        self.register_buffer("centroids", centroids)
        self.ceiling = ceiling

    def forward(self, integrated: Tensor) -> tuple[Tensor, Tensor]:
        """[M, D_I] → (codes int64 [M, C, L], the most probable first, and their log-probabilities [M, C])."""
        user = self.wish(integrated)
        config = self.generator.config
        codes = self.first_token(integrated)[:, None, None]
        score = self._log_probs(user, codes[:, :, :0])[:, 0].gather(1, codes[:, 0])
        for level in range(1, config.code_length):
            last = level == config.code_length - 1
            width = min(_CANDIDATES if last else _BEAMS, codes.shape[1] * config.tokens_per_level)
            total = (score[..., None] + self._log_probs(user, codes)).flatten(1)
            if last:
                total = torch.where(total > self.ceiling, _TOO_PROBABLE, total)
            score, place = total.topk(width, dim=1)
            before = (place // config.tokens_per_level)[..., None].expand(-1, -1, level)
            codes = torch.cat([codes.gather(1, before), (place % config.tokens_per_level)[..., None]], dim=2)
        return codes, score

    def known(self, integrated: Tensor, codes: Tensor) -> Tensor:
        """Log-probability of known items' own codes int64 [M, L], each for the state that asks for it; [M]."""
        logits, _ = self.generator.teacher_forced(Context(self.wish(integrated)), codes)
        parts = [F.log_softmax(part, dim=1).gather(1, codes[:, n, None]) for n, part in enumerate(logits)]
        return torch.cat(parts, dim=1).sum(dim=1)

    def first_token(self, integrated: Tensor) -> Tensor:
        """The nearest centroid, int64 [M]."""
        return (2 * integrated @ self.centroids.T - self.centroids.square().sum(dim=1)).argmax(dim=1)

    def wish(self, integrated: Tensor) -> Tensor:
        """A user state that asks for each item, [M, D]: the mean of those that score it highest."""
        best = (self.vector(integrated) @ self.states.T).topk(min(_STATES, len(self.states)), dim=1).indices
        return F.embedding(best, self.states).mean(dim=1)

    def _log_probs(self, user: Tensor, codes: Tensor) -> Tensor:
        """Of the next token after each prefix int64 [M, K, l]: [M, K, V]."""
        beams, level = codes.shape[1:]
        states = user[:, None].expand(-1, beams, -1).flatten(0, 1)
        whole = F.pad(codes, (0, self.generator.config.code_length - level)).flatten(0, 1)
        logits = self.generator.teacher_forced(Context(states), whole)[0][level]
        return F.log_softmax(logits, dim=-1).unflatten(0, (-1, beams))


def fit_code_writer(
    generator: TemporalGenerator,
    integrated: Tensor,
    vectors: Tensor,
    codes: Tensor,
    states: Tensor,
    centroids: NDArray[np.float32],
) -> CodeWriter:
    """Fitted on items of training events: what the item encoder gives them, `integrated` [n, D_I], the vectors [n, D]
    they have learned, and their codes int64 [n, L]."""
    strength = _RIDGE * max(float(integrated.var(dim=0, unbiased=False).mean()), _LEAST_VARIANCE)
    vector = fit_ridge(integrated, vectors, strength)
    writer = CodeWriter(generator, vector, states, torch.from_numpy(centroids)).eval()
    some = torch.randperm(len(codes), generator=torch.Generator().manual_seed(0))[:_MEASURED]
    with torch.no_grad():
        writer.ceiling = float(writer.known(integrated[some], codes[some]).quantile(_CEILING))
    return writer


def export_code_writer(writer: CodeWriter, integrated: NDArray[np.float32], folder: Path) -> None:
    """Writes the graph into `folder`; raises ExportError unless its codes are as probable as torch's, within 1e-4."""
    names = [CANDIDATES, "score"]
    rows = np.resize(integrated, (ROWS_PER_WRITING, integrated.shape[1]))
    # Fixed sizes: tracing symbolic ones takes three times as long.
    graph = quiet_export(writer, (torch.from_numpy(rows),), None, ["integrated"], names)
    onnx.save_model(graph, folder / CODE_WRITER)
    session = CodeWriterGraph(folder / CODE_WRITER).session
    found = [session.run(["score"], {"integrated": part})[0] for part in np.split(*padded_rows(integrated))]
    with torch.no_grad():
        wanted = writer(torch.from_numpy(integrated))[1].numpy()
    gap = np.abs(np.concatenate(found)[: len(wanted)] - wanted).max()
    if not gap <= TOLERANCE:
        raise ExportError(f"the exported code writer differs from torch by {gap:.1e}")
