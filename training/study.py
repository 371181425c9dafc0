"""Runs a plan: every training once, the same steps once for all, and a table and a report after each.

`FOLDER/steps/` holds steps by the digest of their settings, `FOLDER/runs/` the artifacts, `FOLDER/results/` a JSON
file for each finished run and the ranks of its users' targets; what is there is not done again.
"""

import csv
import hashlib
import json
import logging
import multiprocessing
import os
from collections.abc import Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from pathlib import Path
from typing import Any
from zipfile import BadZipFile

import numpy as np
from pydantic import ValidationError

from models.errors import ModelError

from .config import TrainingConfig
from .differences import differences
from .errors import ConfigError, TrainingError
from .interactions import find_dataset
from .log import log_to_stderr
from .plan import Job, Plan
from .report import refuse_without_plots, write_report
from .settings_list import told_changes
from .study_job import run_job
from .whole_files import written_whole
from .work_folder import read_json, write_once

_LOG = logging.getLogger(__name__)
Result = dict[str, Any]

_MEASURED = {"test", "diagnosis_users", "regret_users", "beam_widths"}
_FIGURES = 3  # raised with every new figure, so that results without it are measured anew


def run_study(plan: Plan, data: Path, folder: Path, devices: Sequence[str] = ("auto",), title: str = "Study") -> Path:
    """Runs what is not done yet, one run at a time on each device; returns the report.

    What is done counts as done where the plan wants the same of it; where it wants other figures (the test set, other
    beam widths) the run is measured anew, its training being there.

    Raises ConfigError before anything is written where `data` is no dataset folder, the plan cannot be used or figures
    cannot be drawn, and TrainingError at the end, naming them, where runs have failed; the others are in the report.
    """
    if int(os.environ.get("WORLD_SIZE", "1")) > 1:
        raise ConfigError("a study does not run under torchrun; name its devices with --device")
    files, jobs = find_dataset(data), plan.jobs()
    refuse_without_plots()
    source = _digest(files)
    (folder / "results").mkdir(parents=True, exist_ok=True)
    wanted = {"data": source, "measured": plan.model_dump(mode="json", include=_MEASURED) | {"figures": _FIGURES}}
    done = {job.key: result for job in jobs if (result := _finished(job, folder, wanted)) is not None}
    _LOG.info("%d of %d runs are done", len(done), len(jobs))
    if done:
        _show(done, jobs, plan, folder, title)
    failed: dict[str, str] = {}
    for job, outcome in _outcomes([job for job in jobs if job.key not in done], plan, data, folder, devices):
        if isinstance(outcome, str):
            failed[job.key] = outcome
            _LOG.error("run %s failed: %s", job.key, outcome)
            continue
        done[job.key] = outcome | wanted
        _keep(done[job.key], _result_path(job, folder))
        _show(done, jobs, plan, folder, title)
        _LOG.info("run %s is done (%d of %d)", job.key, len(done), len(jobs))
    if failed:
        raise TrainingError(f"{len(failed)} of {len(jobs)} runs failed: {', '.join(failed)}; the log above says why")
    return folder / "report.html"


def _result_path(job: Job, folder: Path) -> Path:
    return folder / "results" / f"{job.key}.json"


def _keep(result: Result, path: Path) -> None:
    """The ranks go into a file beside, and the JSON says last that all is there."""
    path.unlink(missing_ok=True)  # of other figures
    with written_whole(_ranks_path(path)) as aside, aside.open("wb") as stream:
        np.savez_compressed(stream, **result["ranks"])
    write_once(path, json.dumps({name: value for name, value in result.items() if name != "ranks"}))


def _ranks_path(path: Path) -> Path:
    return path.with_suffix(".npz")


def _show(done: dict[str, Result], jobs: Sequence[Job], plan: Plan, folder: Path, title: str) -> None:
    """Tables and report of what is done so far."""
    found = [job for job in jobs if job.key in done]
    runs = {job.key: {"run": job.run.name, "kind": job.run.kind, "seed": job.seed, "order": job.order} for job in found}
    write_table([runs[job.key] | row for job in found for row in done[job.key]["rows"]], folder / "results.csv")
    compared: list[dict[str, Any]] = []
    if plan.compared_with is not None:
        compared = differences([(job, done[job.key]["ranks"]) for job in found], plan.compared_with)
    (folder / "differences.csv").unlink(missing_ok=True)  # of a plan that compared others
    if compared:
        write_table(compared, folder / "differences.csv")
    write_report(done, jobs, folder / "report.html", title, compared, plan.compared_with)


def _finished(job: Job, folder: Path, wanted: dict[str, Any]) -> Result | None:
    path = _result_path(job, folder)
    if not path.exists():
        return None
    result: Result = read_json(path)
    try:
        recipe = TrainingConfig.model_validate(result["recipe"]).recipe()  # settings added since have their default
    except ValidationError:
        raise ConfigError(f"{path} is of a version with other settings; rename the plan's run {job.run.name}") from None
    if told := told_changes(recipe, job.config.recipe()):
        raise ConfigError(f"{path} is of other settings than the plan's run {job.run.name} ({told}); rename the run")
    if result.get("data", wanted["data"]) != wanted["data"]:
        raise ConfigError(f"{path} is of other data; choose another --out")
    ranks = _ranks_path(path)
    if not ranks.exists() or any(result.get(name) != value for name, value in wanted.items()):
        return None
    try:
        with np.load(ranks) as arrays:
            return result | {"ranks": dict(arrays)}
    except (OSError, EOFError, ValueError, BadZipFile):  # what a machine that stopped left half written
        return None


def _digest(paths: tuple[Path, ...]) -> str:
    """SHA-256 of a dataset's files."""
    whole = hashlib.sha256()
    for path in paths:
        with path.open("rb") as stream:
            whole.update(hashlib.file_digest(stream, "sha256").digest())
    return whole.hexdigest()


def _outcomes(
    jobs: list[Job], plan: Plan, data: Path, folder: Path, devices: Sequence[str]
) -> Iterator[tuple[Job, Result | str]]:
    """Each job with its result, or with the sentence of the error that ended it."""
    if len(devices) == 1:
        yield from ((job, _attempt(job, plan, data, folder, devices[0])) for job in jobs)
        return
    context = multiprocessing.get_context("spawn")
    free = context.Queue()
    for device in devices:
        free.put(device)
    with ProcessPoolExecutor(len(devices), context, _take_device, (free,)) as pool:
        running = {pool.submit(_attempt_on_mine, job, plan, data, folder): job for job in jobs}
        for future in as_completed(running):
            error = future.exception()  # such as that of a process that was killed
            yield running[future], future.result() if error is None else f"{type(error).__name__}: {error}"


def _attempt(job: Job, plan: Plan, data: Path, folder: Path, device: str) -> Result | str:
    _LOG.info("run %s begins", job.key)
    try:
        return run_job(job, plan, data, folder, device)
    except (TrainingError, ModelError) as error:
        return str(error)
    except Exception as error:  # such as a full disk or a GPU without memory: the others may still succeed
        _LOG.exception("run %s", job.key)
        return f"{type(error).__name__}: {error}"


_mine = "auto"


def _take_device(free: "multiprocessing.Queue[str]") -> None:
    """Each process of the pool keeps one device."""
    global _mine
    log_to_stderr()
    _mine = free.get()


def _attempt_on_mine(job: Job, plan: Plan, data: Path, folder: Path) -> Result | str:
    return _attempt(job, plan, data, folder, _mine)


def write_table(rows: Sequence[dict[str, Any]], path: Path) -> None:
    """CSV, whole or not at all; `results.csv` has a row for each method, held-out set, mask and group of items."""
    with written_whole(path) as aside, aside.open("w", newline="", encoding="utf-8") as stream:
        writer = csv.DictWriter(stream, list(rows[0]), lineterminator="\n")
        writer.writeheader()
        writer.writerows(rows)
