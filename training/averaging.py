"""Weights averaged over steps: what is validated and kept when a stage asks for it."""

from collections.abc import Iterator
from contextlib import contextmanager

from torch import Tensor, nn
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn

from .config import StageConfig


class Average:
    """Averaged twin of a model, exponential (EMA) or plain (SWA); one of `averaging = none` does nothing."""

    def __init__(self, model: nn.Module, stage: StageConfig) -> None:
        self.model = model
        self.begin = int(stage.average_from * stage.epochs)
        self.twin: AveragedModel | None = None
        if stage.averaging == "ema":
            self.twin = AveragedModel(model, multi_avg_fn=get_ema_multi_avg_fn(stage.ema_decay))
        elif stage.averaging == "swa":
            self.twin = AveragedModel(model)

    def update(self, epoch: int) -> None:
        """After a step of epoch number `epoch`, counted from 0."""
        if self.twin is not None and epoch >= self.begin:
            self.twin.update_parameters(self.model)

    @contextmanager
    def applied(self) -> Iterator[None]:
        """The model with the averaged weights in it, and then again with its own."""
        if self.twin is None or not int(self.twin.n_averaged):
            yield
            return
        own = {name: value.detach().clone() for name, value in self.model.state_dict().items()}
        self.model.load_state_dict(self.twin.module.state_dict())
        try:
            yield
        finally:
            self.model.load_state_dict(own)

    def state(self) -> dict[str, Tensor]:
        """What a checkpoint keeps; empty without averaging."""
        return {} if self.twin is None else dict(self.twin.state_dict())

    def load(self, state: dict[str, Tensor]) -> None:
        if self.twin is not None:
            self.twin.load_state_dict(state)
