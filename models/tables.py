"""Arrays of an artifact with room behind them: rows of new items without a copy of the rows that are there."""

import ctypes
import mmap
import os
from pathlib import Path
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from .errors import ArtifactError

_MAP_FIXED: Final = 0x10
_NO_RESERVE: Final = 0x4000  # only pages that are written to are memory
_FAILED: Final = ctypes.c_void_p(-1).value

_libc = ctypes.CDLL(None, use_errno=True)
_libc.mmap.restype = ctypes.c_void_p
_libc.mmap.argtypes = (
    ctypes.c_void_p, ctypes.c_size_t, ctypes.c_int, ctypes.c_int, ctypes.c_int, ctypes.c_int64,
)  # fmt: skip


def with_spare_rows(path: Path, spare: int) -> NDArray[Any]:
    """The array saved in the .npy file `path`, followed by `spare` rows of zeros; writable.

    What is written stays in this process and never reaches the file; pages nobody writes to are shared with every other
    process that maps it. Raises ArtifactError where the system refuses the mapping.
    """
    with path.open("rb") as file:
        shape, fortran, dtype = _header(file)
        start = file.tell()
        if fortran or dtype.hasobject or not shape:
            raise ArtifactError(f"{path} is not an array of rows")
        rows = shape[0] + spare
        row_bytes = dtype.itemsize * int(np.prod(shape[1:], dtype=np.int64))
        if os.fstat(file.fileno()).st_size < start + shape[0] * row_bytes:
            raise ArtifactError(f"{path} is shorter than its array")  # reading on would end the process
        region = mmap.mmap(
            -1, max(1, start + rows * row_bytes), flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS | _NO_RESERVE
        )
        _map_over(region, file.fileno(), start + shape[0] * row_bytes, path)
    flat = np.frombuffer(region, dtype=dtype, count=rows * (row_bytes // dtype.itemsize), offset=start)
    return flat.reshape(rows, *shape[1:])


def _header(file: Any) -> tuple[tuple[int, ...], bool, np.dtype[Any]]:
    version = np.lib.format.read_magic(file)
    read = np.lib.format.read_array_header_1_0 if version == (1, 0) else np.lib.format.read_array_header_2_0
    header: tuple[tuple[int, ...], bool, np.dtype[Any]] = read(file)
    return header


def _map_over(region: mmap.mmap, file: int, length: int, path: Path) -> None:
    """Lays the file copy-on-write over the beginning of `region`, which keeps its zeros behind the file's end."""
    address = ctypes.addressof(ctypes.c_char.from_buffer(region))
    flags = mmap.MAP_PRIVATE | _MAP_FIXED | _NO_RESERVE
    mapped = _libc.mmap(address, length, mmap.PROT_READ | mmap.PROT_WRITE, flags, file, 0)
    if mapped == _FAILED:
        raise ArtifactError(f"{path} cannot be mapped: error {ctypes.get_errno()}")
