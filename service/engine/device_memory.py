"""Tensors that lie in one piece of device memory, so that one copy brings or fetches all of them.

ONNX Runtime copies whole tensors. A view is a tensor over a part of another one's memory, made by way of DLPack, which
both sides of the exchange here are ONNX Runtime itself.
"""

import ctypes
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
import onnxruntime as ort
from numpy.typing import NDArray

_ALIGNMENT: Final = 256
"""Bytes; kernels read several numbers at once, and what a device hands out begins at multiples of this."""
_KINDS: Final = {"i": 0, "f": 2}  # numpy kind → DLDataTypeCode


class _DLTensor(ctypes.Structure):
    """The first member of DLPack's DLManagedTensor."""

    _fields_ = (
        ("data", ctypes.c_void_p),
        ("device_type", ctypes.c_int32),
        ("device_id", ctypes.c_int32),
        ("ndim", ctypes.c_int32),
        ("code", ctypes.c_uint8),
        ("bits", ctypes.c_uint8),
        ("lanes", ctypes.c_uint16),
        ("shape", ctypes.POINTER(ctypes.c_int64)),
        ("strides", ctypes.POINTER(ctypes.c_int64)),
        ("byte_offset", ctypes.c_uint64),
    )


_pointer_of = ctypes.pythonapi.PyCapsule_GetPointer
_pointer_of.restype = ctypes.c_void_p
_pointer_of.argtypes = (ctypes.py_object, ctypes.c_char_p)


def view(whole: ort.OrtValue, start_bytes: int, dtype: np.dtype[Any], shape: Sequence[int]) -> ort.OrtValue:
    """A tensor in the memory of `whole`, which lives as long as the view does."""
    capsule = whole.__dlpack__()
    tensor = ctypes.cast(_pointer_of(capsule, b"dltensor"), ctypes.POINTER(_DLTensor)).contents
    # An array of its own: the capsule's shape is that of `whole` itself. It is read before the next line is done.
    sizes = (ctypes.c_int64 * max(1, len(shape)))(*shape)
    tensor.data += start_bytes
    tensor.ndim, tensor.shape = len(shape), sizes
    tensor.code, tensor.bits = _KINDS[dtype.kind], 8 * dtype.itemsize
    return ort.OrtValue.from_dlpack(capsule)


@dataclass(frozen=True)
class Field:
    """One tensor of a block, of numbers of four bytes."""

    dtype: type[np.int32 | np.float32]
    shape: tuple[int, ...]

    @property
    def size(self) -> int:
        return int(np.prod(self.shape, dtype=np.int64))


class Block:
    """Fixed tensors that are always copied together.

    host    name → array of this process, to be written before `send`
    values  name → tensor on the device
    """

    def __init__(self, fields: Mapping[str, Field], device: str) -> None:
        self._places: dict[str, tuple[Field, int]] = {}
        end = 0
        for name, field in fields.items():
            self._places[name] = field, end
            end += -(-max(1, field.size) * 4 // _ALIGNMENT) * _ALIGNMENT // 4
        self._staged = np.zeros(end, dtype=np.int32)
        self._whole = ort.OrtValue.ortvalue_from_shape_and_type([end], np.int32, device, 0)
        self.host = self._cut(self._staged)
        self.values = {
            name: view(self._whole, 4 * start, np.dtype(field.dtype), field.shape)
            for name, (field, start) in self._places.items()
        }

    def send(self) -> None:
        """Brings `host` to the device, in one copy; returns when it is there."""
        self._whole.update_inplace(self._staged)

    def fetch(self) -> dict[str, NDArray[Any]]:
        """What the device has, in one copy, as new arrays."""
        return self._cut(np.array(self._whole.numpy()))

    def _cut(self, numbers: NDArray[np.int32]) -> dict[str, NDArray[Any]]:
        return {
            name: numbers[start : start + field.size].view(field.dtype).reshape(field.shape)
            for name, (field, start) in self._places.items()
        }
