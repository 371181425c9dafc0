"""RQ-VAE: a residual-quantized autoencoder (Zeghidour et al. 2021, arXiv 2107.03312; for items as in TIGER).

An encoder maps an integrated embedding to a small latent, which L codebooks approximate level by level; a decoder
rebuilds the embedding from their sum. Three things keep it from collapsing: inputs are standardised, codebooks begin
as k-means of the first latents, and a token that nobody uses moves to a latent that is served badly. Sizes are ours.
"""

import math
from itertools import pairwise

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor, nn

from models.codes import CodeTable
from models.quantizer import Quantization, account, additive_vectors, assign_unique, quantize

_LATENT = 32
_HIDDEN = (256, 128)
_STEPS = 4000  # at most
_PASSES = 330  # over the catalog, and no fewer steps than _FEWEST
_FEWEST = 500
_BATCH = 1024
_REVIVE_EVERY = 100
_COMMITMENT = 0.25


class ResidualAutoencoder(nn.Module):
    """Encoder, decoder and codebooks [L, V, latent]."""

    def __init__(self, width: int, code_length: int, tokens_per_level: int) -> None:
        super().__init__()
        sizes = (width, *_HIDDEN, _LATENT)
        self.encoder = _layers(sizes)
        self.decoder = _layers(sizes[::-1])
        self.codebooks = nn.Parameter(torch.zeros(code_length, tokens_per_level, _LATENT))

    def quantized(self, latent: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """latent [B, latent] → (sum of its tokens' vectors, tokens int64 [B, L], codebook and commitment loss)."""
        rest, total, loss = latent, torch.zeros_like(latent), latent.new_zeros(())
        tokens = []
        for codebook in self.codebooks:
            token = torch.cdist(rest.detach(), codebook.detach()).argmin(dim=1)
            vector = F.embedding(token, codebook)
            loss = loss + F.mse_loss(vector, rest.detach()) + _COMMITMENT * F.mse_loss(rest, vector.detach())
            rest, total = rest - vector.detach(), total + vector
            tokens.append(token)
        return latent + (total - latent).detach(), torch.stack(tokens, dim=1), loss

    def forward(self, rows: Tensor) -> tuple[Tensor, Tensor]:
        """rows [B, D_I] → (loss, tokens int64 [B, L])."""
        through, tokens, loss = self.quantized(self.encoder(rows))
        return F.mse_loss(self.decoder(through), rows) + loss, tokens


def quantize_by_autoencoder(
    embeddings: NDArray[np.float32], code_length: int, tokens_per_level: int, seed: int, *, steps: int | None = None
) -> Quantization:
    """embeddings float32 [N, D_I] → unique codes; deterministic in `seed`.

    Codebooks of the result are in the embeddings' own space, as an added item's code is found there: level by level
    the mean of what is still unexplained.
    """
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        rows = torch.from_numpy((embeddings - embeddings.mean(axis=0)) / np.maximum(embeddings.std(axis=0), 1e-6))
        model = _fit(rows, code_length, tokens_per_level, seed, steps or _enough(len(rows)))
    with torch.no_grad():
        tokens, nearest = assign_unique(model.encoder(rows), model.codebooks)
    return account(tokens, nearest, additive_vectors(embeddings, CodeTable(tokens, tokens_per_level)))


def _enough(items: int) -> int:
    return min(_STEPS, max(_FEWEST, _PASSES * math.ceil(items / _BATCH)))


def _fit(rows: Tensor, code_length: int, tokens_per_level: int, seed: int, steps: int) -> ResidualAutoencoder:
    model = ResidualAutoencoder(rows.shape[1], code_length, tokens_per_level)
    with torch.no_grad():
        start = quantize(model.encoder(rows).numpy(), code_length, tokens_per_level, seed)
        model.codebooks.copy_(torch.from_numpy(start.codebooks))
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3, weight_decay=1e-4, fused=True)
    used = torch.zeros(code_length, tokens_per_level, dtype=torch.bool)
    for step in range(steps):
        loss, tokens = model(rows[torch.randint(len(rows), (_BATCH,))])
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        optimizer.step()
        used.scatter_(1, tokens.T, True)
        if (step + 1) % _REVIVE_EVERY == 0 and step < steps * 0.8:
            _revive(model, rows, used)
            used.zero_()
    return model


def _revive(model: ResidualAutoencoder, rows: Tensor, used: Tensor) -> None:
    """Moves tokens that no row has used lately to the residuals that are largest at their level."""
    with torch.no_grad():
        rest = model.encoder(rows)
        for level, codebook in enumerate(model.codebooks):
            token = torch.cdist(rest, codebook).argmin(dim=1)
            left = rest - codebook[token]
            dead = (~used[level]).nonzero()[:, 0][: len(rows)]
            codebook[dead] = rest[left.norm(dim=1).topk(len(dead)).indices]
            rest = left


def _layers(sizes: tuple[int, ...]) -> nn.Sequential:
    layers: list[nn.Module] = []
    for below, above in pairwise(sizes):
        layers += [nn.Linear(below, above), nn.ReLU()]
    return nn.Sequential(*layers[:-1])
