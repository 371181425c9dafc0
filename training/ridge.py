"""Ridge regression: a linear map fitted in closed form."""

import torch
from torch import Tensor, nn


def fit_ridge(features: Tensor, targets: Tensor, strength: float) -> nn.Linear:
    """The linear layer [F] → [D] that predicts targets [n, D] from features [n, F] with least squares.

    strength  weight of the squared coefficients, as a share of n; the constant is not held down
    """
    centre, mean = features.mean(dim=0).double(), targets.mean(dim=0).double()
    known = features.double() - centre
    gram = known.T @ known + len(known) * strength * torch.eye(known.shape[1], dtype=torch.float64)
    weight = torch.linalg.solve(gram, known.T @ (targets.double() - mean))
    layer = nn.Linear(features.shape[1], targets.shape[1])
    with torch.no_grad():
        layer.weight.copy_(weight.T)
        layer.bias.copy_(mean - centre @ weight)
    return layer.requires_grad_(False)
