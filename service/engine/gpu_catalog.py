"""The catalog in a device's own memory: arrays with room to grow, changed in place.

A captured graph reads fixed addresses, and the sessions around it hold sizes of the catalog as constants. So arrays are
longer than what is in them, and a change is written into them; only one that does not fit any more needs new ones.
"""

from collections.abc import Callable, Sequence
from typing import Any, Final

import numpy as np
import onnxruntime as ort
from numpy.typing import NDArray

from models.graph import Inputs

from .device_memory import view

_ROOM: Final = 1024
_SHARE: Final = 8  # one more place for every so many
_TYPES: Final = {"tensor(float)": np.float32, "tensor(float16)": np.float16, "tensor(int32)": np.int32}


class ResidentCatalog:
    """`values` are the tensors that searches read: their shapes and addresses stay for good."""

    def __init__(self, inputs: Inputs, types: dict[str, str], tokens: int, device: str) -> None:
        """`types` is ONNX Runtime's type of every input that is read; others are left out. `tokens` is V."""
        self._device = device
        self._types = {name: _TYPES[types[name]] for name in inputs if name in types}
        self._shapes = {name: _capacity(name, inputs[name].shape, tokens) for name in self._types}
        self.values = {name: self._brought(name, inputs[name]) for name in self._types}

    def fits(self, inputs: Inputs) -> bool:
        """Whether these can be written into what is there."""
        return all(_within(array.shape, self._shapes[name]) for name, array in inputs.items() if name in self._shapes)

    def stage(self, inputs: Inputs) -> Callable[[], None]:
        """Brings inputs that fit to the device; what is returned puts them in place, by a copy within the device."""
        staged = {name: self._brought(name, array) for name, array in inputs.items() if name in self._types}

        def use() -> None:
            for name, value in staged.items():
                self.values[name].update_inplace(value)

        return use

    def send_slots(self, counts: Sequence[NDArray[np.int32]], slots: Sequence[int]) -> None:
        """Brings the rows of `slots` of every level's counts, int32 [F, S_{l+1}], into `alive_l`."""
        for level, array in enumerate(counts):
            if (name := f"alive_{level}") in self._types:
                for slot in slots:
                    self._send(name, slot, array[slot])

    def send_rows(self, tables: Inputs, rows: Sequence[int]) -> None:
        """Brings rows [D] of tables [N, D], those that lie side by side in one copy."""
        wanted = np.unique(rows)
        for name, table in tables.items():
            if name in self._types:
                for run in np.split(wanted, np.flatnonzero(np.diff(wanted) > 1) + 1):
                    self._send(name, int(run[0]), table[run].reshape(-1))

    def _send(self, name: str, row: int, numbers: NDArray[Any]) -> None:
        """Numbers [M] to where row `row` of an array of two dimensions begins."""
        sent = np.ascontiguousarray(numbers, dtype=self._types[name])
        start = sent.itemsize * row * self._shapes[name][1]
        view(self.values[name], start, sent.dtype, sent.shape).update_inplace(sent)

    def _brought(self, name: str, array: NDArray[Any]) -> ort.OrtValue:
        return ort.OrtValue.ortvalue_from_numpy(self._padded(name, array), self._device, 0)

    def _padded(self, name: str, array: NDArray[Any]) -> NDArray[Any]:
        dtype, shape = self._types[name], self._shapes[name]
        if name.startswith("child_offset"):  # 0 … W - 1, whatever W is
            return np.arange(shape[0], dtype=dtype)
        if array.shape == shape and self._device != "cpu":
            return np.ascontiguousarray(array, dtype=dtype)
        padded = np.zeros(shape, dtype=dtype)
        padded[tuple(slice(size) for size in array.shape)] = array
        return padded


def _capacity(name: str, shape: tuple[int, ...], tokens: int) -> tuple[int, ...]:
    """Shape on the device. Tables of items come with spare rows; what is indexed by state gets room here."""
    if name.startswith("item_") or name == "prefix_output":
        return shape
    if name.startswith("child_offset"):
        return (min(1 << (shape[0] - 1).bit_length(), max(tokens, shape[0])),)
    return (*shape[:-1], shape[-1] + shape[-1] // _SHARE + _ROOM)


def _within(shape: tuple[int, ...], capacity: tuple[int, ...]) -> bool:
    return shape[:-1] == capacity[:-1] and shape[-1] <= capacity[-1]
