"""What this machine cannot do is refused in one sentence, before anything is loaded."""

import os
import subprocess
import sys
import sysconfig
from pathlib import Path

import pytest

from service.engine.devices import CPU
from service.engine.fitness import Wanted, usable_provider
from service.engine.precision import Precision
from service.errors import SettingsError
from tests.marks import needs_a_compiler, without_cuda_libraries, without_gpu


def ask(*words: str, without: str = "nothing", site: Path | None = None, **variables: str) -> tuple[int, str]:
    """Exit code and stderr of the program, which finds no package of the name `without`; with `site` it has the
    packages in that folder instead of those that are installed."""
    code = f"""
import sys
sys.modules[{without!r}] = None
from service.engine.fitness import main
sys.exit(main(*sys.argv[1:]))
"""
    command = [sys.executable, "-c", code, *words]
    if site is not None:
        command.insert(1, "-S")
        variables["PYTHONPATH"] = os.pathsep.join(map(str, (Path.cwd(), site)))
    ended = subprocess.run(command, env=os.environ | variables, capture_output=True, text=True, timeout=60, check=False)
    return ended.returncode, ended.stderr


@pytest.mark.parametrize("precision", ["fp32", "int8"])
def test_what_every_machine_can_do_passes(precision: Precision) -> None:
    assert usable_provider("cpu", precision) == CPU
    assert ask("cpu", precision) == (0, "")


@pytest.mark.parametrize(
    ("wanted", "precision", "sentence"),
    [
        ("cpu", "fp16", "PROREC_PRECISION=fp16: fp16 is for GPUs, and the provider is cpu"),
        pytest.param(
            *("auto", "fp16", "PROREC_PRECISION=fp16: fp16 is for GPUs, and this machine has none that works"),
            marks=without_gpu,
        ),
        pytest.param(
            *(
                "cuda",
                "fp32",
                "PROREC_PROVIDER=cuda: this machine has no CUDA device, or ONNX Runtime was built without",
            ),
            marks=without_gpu,
        ),
    ],
)
def test_a_device_that_is_not_there_is_one_sentence(wanted: Wanted, precision: Precision, sentence: str) -> None:
    with pytest.raises(SettingsError) as refusal:
        usable_provider(wanted, precision)
    assert str(refusal.value).startswith(sentence)
    assert ask(wanted, precision) == (2, f"{refusal.value}\n")


def test_8_bits_without_their_package_are_one_sentence() -> None:
    sentence = "PROREC_PRECISION=int8: the package onnx is missing; python -m pip install 'prorec-serve[int8]'\n"
    assert ask("cpu", "int8", without="onnx") == (2, sentence)
    assert ask("cpu", "fp32", without="onnx") == (0, "")


@needs_a_compiler
@without_cuda_libraries
def test_what_a_machine_with_a_gpu_but_without_its_libraries_cannot_do_is_one_sentence(tmp_path: Path) -> None:
    site = tmp_path / "site"
    site.mkdir()
    for package in Path(sysconfig.get_path("purelib")).iterdir():
        if not package.name.startswith(("nvidia", "torch")):  # where pip puts libraries of CUDA
            (site / package.name).symlink_to(package)
    (tmp_path / "driver.c").write_text(
        "int cuInit(unsigned flags) { return 0; } int cuDeviceGetCount(int *count) { *count = 1; return 0; }"
    )
    subprocess.run(["cc", "-shared", "-fPIC", "-o", "libcuda.so.1", "driver.c"], cwd=tmp_path, check=True)
    code, errors = ask("cuda", "fp32", site=site, LD_LIBRARY_PATH=str(tmp_path))
    *_, sentence = errors.splitlines()
    assert code == 2
    assert sentence.startswith("PROREC_PROVIDER=cuda: ")
    assert sentence.endswith("a CUDA library is missing; python -m pip install 'prorec-serve[gpu]'")
    assert ask("auto", "fp32", site=site, LD_LIBRARY_PATH=str(tmp_path))[0] == 0
    code, errors = ask("auto", "int8", site=site, LD_LIBRARY_PATH=str(tmp_path))
    sentence = "PROREC_PRECISION=int8: int8 is for CPUs, and this machine has a GPU; set PROREC_PROVIDER=cpu"
    assert (code, errors.splitlines()[-1]) == (2, sentence)
