"""Steps that many runs share."""

from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from training.config import TrainingConfig
from training.work_folder import WorkFolder

RUNS = 8


def test_runs_that_want_a_step_at_the_same_moment_all_get_it(tmp_path: Path) -> None:
    folder = WorkFolder(tmp_path / "run", TrainingConfig(), tmp_path / "steps")

    def settings_of(number: int) -> str:
        with folder.step("text", {"number": number}) as step:
            return (step / "settings.json").read_text()

    with ThreadPoolExecutor(RUNS) as pool:
        for number in range(300):
            assert set(pool.map(settings_of, [number] * RUNS)) == {f'{{"number": {number}}}'}
