"""TensorBoard event files of a training loop, where they are wanted."""

from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Self

from .machine import Machine

if TYPE_CHECKING:
    from torch.utils.tensorboard import SummaryWriter


class Scalars:
    """A writer of scalars by step, or nobody."""

    def __init__(self, writer: "SummaryWriter | None") -> None:
        self._writer = writer

    def tell(self, step: int, **values: float) -> None:
        if self._writer is not None:
            for name, value in values.items():
                self._writer.add_scalar(name, value, step)
            self._writer.flush()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._writer is not None:
            self._writer.close()


def open_scalars(machine: Machine, folder: Path, step: int) -> Scalars:
    """Scalars of the team's first process under `folder`; what an interrupted run wrote after `step` is overwritten."""
    if not (machine.tensorboard and machine.leads):
        return Scalars(None)
    from torch.utils.tensorboard import SummaryWriter

    return Scalars(SummaryWriter(str(folder), purge_step=step + 1))
