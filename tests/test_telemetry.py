"""Nothing calls home."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]


@pytest.mark.parametrize(
    "module", ["models.item_encoder", "service.engine.search", "training.export", "deploy.bench.engine"]
)
def test_onnx_runtime_is_imported_without_its_telemetry(tmp_path: Path, module: str) -> None:
    """Else it writes an id of the device below the home folder."""
    code = f"import {module}, sys; assert 'onnxruntime' in sys.modules"
    environment = {name: value for name, value in os.environ.items() if name != "ORT_DISABLE_TELEMETRY"}
    subprocess.run([sys.executable, "-c", code], cwd=ROOT, env=environment | {"HOME": str(tmp_path)}, check=True)
    assert not (tmp_path / ".cache/Microsoft").exists()
