"""Checkpoints of a training loop: tensors in safetensors, the rest in JSON, written aside and renamed."""

import json
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from .averaging import Average
from .whole_files import written_whole


def save(
    path: Path,
    model: nn.Module,
    optimizer: torch.optim.Optimizer,
    average: Average,
    best: dict[str, Tensor],
    progress: Any,
) -> None:
    """Model, optimizer moments, averaged weights, best weights so far, and `progress` (anything JSON holds)."""
    tensors = {f"model.{name}": value for name, value in model.state_dict().items()}
    tensors |= {f"best.{name}": value for name, value in best.items()}
    tensors |= {f"average.{name}": value for name, value in average.state().items()}
    for index, moments in optimizer.state_dict()["state"].items():
        tensors |= {f"optimizer.{index}.{name}": torch.as_tensor(value) for name, value in moments.items()}
    copies = {name: value.detach().cpu().clone().contiguous() for name, value in tensors.items()}
    with written_whole(path) as aside:
        try:
            save_file(copies, aside, metadata={"progress": json.dumps(progress)})
        except SafetensorError as error:  # what the system says is in its text alone
            raise OSError(f"{aside} cannot be written: {error}") from None


def load(
    path: Path, model: nn.Module, optimizer: torch.optim.Optimizer, average: Average
) -> tuple[dict[str, Tensor], Any]:
    """Restores model, optimizer and averaged weights in place; returns (best weights, progress)."""
    tensors = load_file(path)
    model.load_state_dict(_under(tensors, "model."))
    average.load(_under(tensors, "average."))
    state = optimizer.state_dict()
    for name, value in _under(tensors, "optimizer.").items():
        index, moment = name.split(".")
        state["state"].setdefault(int(index), {})[moment] = value
    optimizer.load_state_dict(state)
    return _under(tensors, "best."), read_progress(path)


def read_progress(path: Path) -> Any:
    """The JSON part alone."""
    from safetensors import safe_open

    with safe_open(path, framework="pt") as stored:
        return json.loads(stored.metadata()["progress"])


def _under(tensors: dict[str, Tensor], prefix: str) -> dict[str, Tensor]:
    return {name.removeprefix(prefix): value for name, value in tensors.items() if name.startswith(prefix)}
