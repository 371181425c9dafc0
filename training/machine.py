"""Where training runs: the device, its number format, and the processes that share the work under torchrun."""

import datetime
import os
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from importlib.util import find_spec

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from .config import TrainingConfig
from .errors import ConfigError

_LONGEST_WAIT = datetime.timedelta(hours=12)  # others wait while the first process embeds texts or validates


@dataclass(frozen=True)
class Machine:
    """One process of a team; alone unless torchrun has started it.

    mixed         whether losses are computed in bfloat16 where that is safe; weights stay float32
    checkpoint_s  seconds between checkpoints inside an epoch
    tensorboard   whether event files are written
    """

    device: torch.device = field(default_factory=lambda: torch.device("cpu"))
    mixed: bool = False
    rank: int = 0
    size: int = 1
    checkpoint_s: float = 300.0
    tensorboard: bool = False

    @classmethod
    def of(cls, config: TrainingConfig) -> "Machine":
        """The machine these settings and torchrun's environment describe; joins the team.

        Raises ConfigError for a device that is not there.
        """
        size, rank = int(os.environ.get("WORLD_SIZE", "1")), int(os.environ.get("RANK", "0"))
        device = _device(config.device, int(os.environ.get("LOCAL_RANK", "0")) if size > 1 else None)
        if size > 1 and not dist.is_initialized():
            dist.init_process_group("nccl" if device.type == "cuda" else "gloo", timeout=_LONGEST_WAIT)
        if config.tensorboard:
            refuse_without_tensorboard()
        mixed = config.precision == "bfloat16" or (config.precision == "auto" and device.type == "cuda")
        return cls(device, mixed, rank, size, config.checkpoint_every_s, config.tensorboard)

    @property
    def leads(self) -> bool:
        """Whether this process writes files, validates and reports."""
        return self.rank == 0

    def autocast(self) -> AbstractContextManager[None]:
        return torch.autocast(self.device.type, torch.bfloat16, enabled=self.mixed)

    def shared(self, module: nn.Module) -> nn.Module:
        """The module with its gradients averaged over the team at every backward."""
        if self.size == 1:
            return module
        # Which parameters a loss reaches depends on settings (no alignment, no item head).
        return DistributedDataParallel(module, broadcast_buffers=False, find_unused_parameters=True)

    def total(self, value: Tensor) -> Tensor:
        """The sum of every process's value."""
        if self.size > 1:
            dist.all_reduce(value)
        return value

    def leaders(self, value: float) -> float:
        """What the first process has, given to all."""
        if self.size == 1:
            return value
        shared = torch.tensor(value, dtype=torch.float64, device=self.device)
        dist.broadcast(shared, src=0)
        return float(shared)

    def wait(self) -> None:
        """Until every process is here."""
        if self.size > 1:
            self.total(torch.zeros(1, device=self.device))
            if self.device.type == "cuda":
                torch.cuda.synchronize(self.device)


def leave_team() -> None:
    """To be called before a process of a team ends."""
    if dist.is_available() and dist.is_initialized():
        dist.destroy_process_group()


def refuse_without_tensorboard() -> None:
    """Raises ConfigError where its package is missing."""
    if find_spec("tensorboard") is None:
        package = "prorec-serve[tensorboard]"
        raise ConfigError(f"tensorboard=true needs the package tensorboard: python -m pip install '{package}'")


def _device(wanted: str, local_rank: int | None) -> torch.device:
    """The device of that name; `auto` is a GPU where there is one, and torchrun gives each process its own."""
    if wanted == "auto":
        wanted = "cuda" if torch.cuda.is_available() else "cpu"
    try:
        device = torch.device(wanted)
    except RuntimeError:
        raise ConfigError(f"device={wanted!r} is not a device; write auto, cpu, cuda or cuda:1") from None
    if device.type not in ("cpu", "cuda"):
        raise ConfigError(f"device={wanted!r} is not supported; write auto, cpu, cuda or cuda:1")
    if device.type == "cuda" and device.index is None and local_rank is not None:
        device = torch.device("cuda", local_rank)
    if device.type == "cuda" and (device.index or 0) >= torch.cuda.device_count():
        raise ConfigError(f"device={wanted!r}: this machine has {torch.cuda.device_count()} CUDA devices")
    if device.type == "cuda":
        torch.cuda.set_device(device)
    return device
