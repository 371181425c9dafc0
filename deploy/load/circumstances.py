"""When, where and of what a load test was made: figures without that cannot be compared with others."""

import os
import platform
from pathlib import Path
from typing import Any, Final

import httpx

_CPUS: Final = Path("/proc/cpuinfo")
_OF_PROGRAM: Final = ("service", "python", "onnxruntime", "provider", "precision")
_OF_MODELS: Final = ("model_version", "canary_version")


def machine() -> dict[str, Any]:
    """The one that the clients run on."""
    return {"cpu": cpu_model(), "cores": os.cpu_count(), "python": platform.python_version()}


def cpu_model(cpus: Path = _CPUS) -> str:
    """As the kernel names it, or else the architecture; `cpus` is written like /proc/cpuinfo."""
    lines = cpus.read_text().splitlines() if cpus.exists() else []
    names = (line.partition(":")[2].strip() for line in lines if line.startswith("model name"))
    return next(names, platform.machine())


async def service(client: httpx.AsyncClient) -> dict[str, Any] | None:
    """The program that answers, and the versions it serves; None where it does not say, as a proxy may have it."""
    try:
        program, models = [(await client.get(path)).json() for path in ("/version", "/health/ready")]
        return {name: program[name] for name in _OF_PROGRAM} | {name: models[name] for name in _OF_MODELS}
    except (httpx.HTTPError, KeyError, TypeError, ValueError):
        return None
