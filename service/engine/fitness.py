"""`python -m service.engine.fitness PROVIDER PRECISION`: can this machine search as these settings want?

An engine asks before it loads anything, and a replica before it starts anything, in a process of its own: ONNX Runtime
and the CUDA driver would stay in the supervisor for good.
"""

import sys
from importlib.util import find_spec
from typing import Literal

from service.errors import SettingsError
from service.lifetime import REFUSED
from service.settings import variable

from .devices import CPU, CUDA, NoProvider, SearchError, choose_provider, require_memory
from .precision import Precision

Wanted = Literal["auto", "cpu", "cuda"]


def usable_provider(wanted: Wanted, precision: Precision) -> str:
    """ONNX Runtime's name of the device to search on; raises SettingsError for what this machine cannot have."""
    try:
        provider = choose_provider(wanted)
    except SearchError as error:
        raise SettingsError(f"{variable('provider')}={wanted}: {error}") from None
    setting = f"{variable('precision')}={precision}"
    if precision == "int8" and provider != CPU:
        raise SettingsError(f"{setting}: int8 is for CPUs, and this machine has a GPU; set {variable('provider')}=cpu")
    if precision == "fp16" and provider == CPU:
        missing = "the provider is cpu" if wanted == "cpu" else "this machine has none that works"
        raise SettingsError(f"{setting}: fp16 is for GPUs, and {missing}")
    if precision != "fp32" and find_spec("onnx") is None:
        raise SettingsError(f"{setting}: the package onnx is missing; python -m pip install 'prorec-serve[int8]'")
    return provider


def check(wanted: Wanted, precision: Precision) -> None:
    """As `usable_provider`, and looks whether the libraries of a GPU that the settings insist on can be loaded."""
    provider = usable_provider(wanted, precision)
    if provider == CUDA and (wanted == "cuda" or precision != "fp32"):
        try:
            require_memory(provider)
        except NoProvider as error:
            raise SettingsError(f"{variable('provider')}={wanted}: {error}") from None


def main(wanted: Wanted, precision: Precision) -> int:
    """Exit code: 0, or 2 with one sentence on stderr. A GPU that is only busy now is for the engine to tell."""
    try:
        check(wanted, precision)
    except SettingsError as error:
        print(error, file=sys.stderr)
        return REFUSED
    except SearchError:
        return 0
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1], sys.argv[2]))  # type: ignore[arg-type]
