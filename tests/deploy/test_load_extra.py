"""`python -m pip install '.[load]'` is all that a load test needs."""

import re
import subprocess
import sys
import tomllib
from collections.abc import Iterable
from importlib.metadata import packages_distributions
from pathlib import Path

from tests.training.ring import write_ring

ROOT = Path(__file__).parents[2]
LOAD = """
import pathlib, sys
sys.modules.update(dict.fromkeys(sys.argv[2:]))  # what Python itself does for a module that must not be there
import deploy.load_test, deploy.load.histories, matplotlib.figure
assert len(deploy.load.histories.of_dataset(pathlib.Path(sys.argv[1]), 3, 0)) == 3
"""


def distributions(requirements: Iterable[str]) -> set[str]:
    names = (re.match(r"[\w.-]+", requirement) for requirement in requirements)
    return {re.sub(r"[-_.]+", "-", name.group()).lower() for name in names if name}


def test_without_it_one_sentence_names_it() -> None:
    code = "import sys; sys.modules['ddsketch'] = None; import deploy.load_test"
    ended = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=False)
    assert (ended.returncode, len(ended.stderr.splitlines())) == (2, 1)
    assert ".[load]" in ended.stderr


def test_a_load_test_with_a_dataset_needs_nothing_of_other_extras(tmp_path: Path) -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    extras = project["optional-dependencies"]
    own = distributions([*project["dependencies"], *extras["load"]])
    others = distributions(requirement for extra in extras.values() for requirement in extra) - own
    absent = [name for name, brought_by in packages_distributions().items() if distributions(brought_by) <= others]
    assert {"torch", "scipy", "yaml"} <= set(absent)
    command = [sys.executable, "-c", LOAD, str(write_ring(tmp_path / "ring")), *absent]
    ended = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert ended.returncode == 0, ended.stderr
