"""Steps that many runs share."""

import hashlib
import json
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

from training.config import TrainingConfig
from training.step_settings import items_digest
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


def test_items_have_the_digest_of_their_whole_list() -> None:
    items: list[dict[str, Any]] = [
        {"item_id": "a", "title": "Ä, [b]", "tags": ["x", "y"]},
        {"item_id": "b", "price": 1e20},
        {"item_id": "c"},
    ]
    for count in range(len(items) + 1):
        assert items_digest(items[:count]) == hashlib.sha256(json.dumps(items[:count]).encode()).hexdigest()
