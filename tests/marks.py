"""Why some tests cannot run on some machines, each reason in one place."""

import os
import shutil
from ctypes.util import find_library
from pathlib import Path

import pytest

from service.supervisor.forks import can_fork

without_gpu = pytest.mark.skipif(
    Path("/dev/nvidiactl").exists(), reason="says what happens without a GPU, and this machine has one"
)
without_cuda_libraries = pytest.mark.skipif(
    find_library("cublasLt") is not None,
    reason="says what happens without CUDA's libraries, and this system has them where no test can take them away",
)
needs_two_cores = pytest.mark.skipif(
    len(os.sched_getaffinity(0)) < 2, reason="needs two cores: one for engines and one for the rest"
)
needs_a_compiler = pytest.mark.skipif(
    not (shutil.which("cc") and shutil.which("nm")),
    reason="needs a C compiler and binutils to build a driver or a CUDA runtime that does nothing",
)
needs_forks = pytest.mark.skipif(
    not can_fork(), reason="forking needs pidfds, which this kernel does not have; engines are fresh interpreters then"
)
