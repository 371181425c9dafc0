"""Builds `runtime.c` into libraries of the names that ONNX Runtime's CUDA provider asks for."""

import re
import subprocess
from collections.abc import Mapping
from importlib.util import find_spec
from pathlib import Path
from typing import Final

_SOURCE: Final = Path(__file__).with_name("runtime.c")
_DRIVER: Final = "libcuda.so.1"  # its symbols carry no version
_OTHERS: Final = (_DRIVER, "libcurand.so.10")  # asked for by name, and for little or nothing in them


def build(folder: Path) -> None:
    """Writes the libraries into `folder`. Needs a C compiler and binutils."""
    for library, functions in _wanted(_provider()).items():
        _link(folder, library, functions)


def _provider() -> Path:
    spec = find_spec("onnxruntime")
    assert spec is not None
    assert spec.origin is not None
    return Path(spec.origin).parent / "capi" / "libonnxruntime_providers_cuda.so"


def _wanted(provider: Path) -> Mapping[str, set[str]]:
    """Library → functions the provider takes from it, as its symbol table says."""
    listing = subprocess.run(["nm", "-D", "--undefined-only", provider], capture_output=True, text=True, check=True)
    wanted: dict[str, set[str]] = {name: set() for name in _OTHERS}
    for name, library in re.findall(r"U (\w*cu\w+)@+(libcu\S+)", listing.stdout):
        wanted.setdefault(library, set()).add(name)
    wanted[_DRIVER].update(re.findall(r"U (cu[A-Z]\w+)$", listing.stdout, re.MULTILINE))
    return wanted


def _link(folder: Path, library: str, functions: set[str]) -> None:
    written = set(re.findall(r"\b(_*cu\w+)\(", _SOURCE.read_text()))
    stubs, versions = folder / "stubs.c", folder / "versions.map"
    stubs.write_text("".join(f"long {name}(void) {{ return 0; }}\n" for name in sorted(functions - written)))
    versions.write_text(f"{library} {{ global: *; }};\n")
    command: list[str | Path] = [
        "cc",
        "-shared",
        "-fPIC",
        "-O1",
        "-w",
        "-include",
        "stddef.h",
        "-o",
        folder / library,
        stubs,
        _SOURCE,
    ]
    command += [f"-Wl,-soname,{library}"]
    if library != _DRIVER:
        command += [f"-Wl,--version-script={versions}"]
    subprocess.run(command, check=True)
