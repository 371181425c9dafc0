"""Which device a search runs on, sessions on it, and what ONNX Runtime has put where."""

import ctypes
import logging
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final, Literal

import numpy as np
import onnxruntime as ort

CPU: Final = "CPUExecutionProvider"
CUDA: Final = "CUDAExecutionProvider"
_NOT_LOADED: Final = "CUDA Provider not available"  # how it says that the provider's own library could not be loaded
_ORT_ERROR: Final = 3  # severity below which ONNX Runtime keeps quiet on stderr
_RECORD_PLACEMENT: Final = "session.record_ep_graph_assignment_info"

logger = logging.getLogger(__name__)


class SearchError(Exception):
    """The search cannot run as it is wanted on this device."""


class NoProvider(SearchError):  # noqa: N818, it names a state and not a fault
    """ONNX Runtime cannot load what it needs for the device; trying again cannot help."""


def choose_provider(wanted: Literal["auto", "cpu", "cuda"]) -> str:
    """CPU or CUDA; raises SearchError when `wanted` is "cuda" and there is no GPU."""
    ort.set_default_logger_severity(_ORT_ERROR)
    if wanted == "cpu":
        return CPU
    if CUDA in ort.get_available_providers() and _gpu_count():
        ort.preload_dlls()
        return CUDA
    if wanted == "cuda":
        raise SearchError("this machine has no CUDA device, or ONNX Runtime was built without CUDA")
    return CPU


def require_memory(provider: str) -> str:
    """ONNX Runtime's name of the memory of a provider's device.

    Raises NoProvider where its libraries cannot be loaded, SearchError where it cannot allocate any memory.
    """
    if provider != CUDA:
        return "cpu"
    try:
        ort.OrtValue.ortvalue_from_shape_and_type([1], np.float32, "cuda", 0)
    except RuntimeError as error:
        if _NOT_LOADED in str(error):
            raise NoProvider(
                f"ONNX Runtime cannot use {CUDA}, as a CUDA library is missing; "
                "python -m pip install 'prorec-serve[gpu]'"
            ) from None
        raise SearchError(f"ONNX Runtime cannot use {CUDA}: {error}") from None
    return "cuda"


def quiet_options() -> ort.SessionOptions:
    """What all sessions have in common."""
    options = ort.SessionOptions()
    options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_ENABLE_ALL
    options.log_severity_level = _ORT_ERROR
    # On the CPU a batch runs in parts on threads of this process, and on a GPU the CPU only launches.
    options.intra_op_num_threads = 1
    return options


def cpu_session(model: Path | bytes) -> ort.InferenceSession:
    return ort.InferenceSession(model, quiet_options(), providers=[CPU])


def bound_session(
    model: Path | bytes, provider: str, dims: Mapping[str, int], *, capture: bool
) -> tuple[ort.InferenceSession, bool]:
    """A session for I/O binding, and whether its runs can be captured.

    `dims` fixes symbolic dimensions: what is worked out from them alone becomes a constant, so no number has to be
    copied between CPU and GPU within a run. ONNX Runtime itself refuses to open a session for capture where a node,
    arithmetic of shapes apart, would run on the CPU; such a model is searched without capture.

    Raises SearchError where ONNX Runtime fell back to another provider.
    """
    if provider != CUDA:
        return _open(model, provider, dims, {}), False
    if capture:
        try:
            return _open(model, CUDA, dims, {"enable_cuda_graph": "1"}), True
        except SearchError:
            raise
        except Exception as error:
            logger.warning("this model is searched without CUDA graphs: %s", error)
    return _open(model, CUDA, dims, {}), False


def _open(model: Path | bytes, provider: str, dims: Mapping[str, int], cuda: Mapping[str, str]) -> ort.InferenceSession:
    options = quiet_options()
    options.add_session_config_entry(_RECORD_PLACEMENT, "1")
    for name, size in dims.items():
        options.add_free_dimension_override_by_name(name, size)
    # TF32 drops mantissa bits, and scores would no longer be those the artifact was proved with.
    providers = [(CUDA, {"use_tf32": "0", **cuda}), CPU] if provider == CUDA else [CPU]
    session = ort.InferenceSession(model, options, providers=providers)
    # It falls back to the CPU without raising when a CUDA library is missing.
    if (actual := session.get_providers()[0]) != provider:
        raise SearchError(f"ONNX Runtime could not use {provider} and fell back to {actual}")
    return session


def placement(session: ort.InferenceSession) -> dict[str, Counter[str]]:
    """Provider → operator → nodes, as ONNX Runtime has assigned them; of a session of `bound_session`."""
    placed: dict[str, Counter[str]] = {}
    for part in session.get_provider_graph_assignment_info():
        placed.setdefault(part.ep_name, Counter()).update(node.op_type for node in part.get_nodes())
    return placed


@dataclass(frozen=True)
class Signature:
    """What a graph says of one input: its type as ONNX Runtime writes it, and its dimensions, a name or a size each."""

    type: str
    dims: Sequence[str | int]


def signatures(model: Path | bytes) -> dict[str, Signature]:
    """Every input of a graph; the exporter drops those that the graph does not use."""
    options = quiet_options()
    options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_DISABLE_ALL  # nobody will run this one
    session = ort.InferenceSession(model, options, providers=[CPU])
    return {value.name: Signature(value.type, value.shape) for value in session.get_inputs()}


def _gpu_count() -> int:
    """Devices the CUDA driver sees. ONNX Runtime lists its CUDA provider also where there is no GPU."""
    try:
        driver = ctypes.CDLL("libcuda.so.1")
    except OSError:
        return 0
    count = ctypes.c_int(0)
    if driver.cuInit(0) or driver.cuDeviceGetCount(ctypes.byref(count)):
        return 0
    return count.value
