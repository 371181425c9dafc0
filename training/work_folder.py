"""Where the steps of a run keep their results: one folder a run, or a store that the runs of a study share."""

import fcntl
import hashlib
import json
import os
import weakref
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from pydantic import ValidationError

from .config import TrainingConfig
from .errors import ConfigError
from .interactions import Split
from .settings_list import told_changes
from .whole_files import REMEDY, intact, written_whole

Arrays = dict[str, NDArray[Any]]


def fingerprint(split: Split, text_encoder: str) -> str:
    """SHA-256 over all that is read: events of every split, items with their metadata, precomputed embeddings."""
    data, digest = split.interactions, hashlib.sha256()
    for array in (data.offsets, data.events):
        digest.update(array.tobytes())
    for item in data.items:
        digest.update(json.dumps(item).encode())
    if text_encoder.endswith(".npy"):
        with Path(text_encoder).open("rb") as stream:
            digest.update(hashlib.file_digest(stream, "sha256").digest())
    return digest.hexdigest()


class WorkFolder:
    """Results of steps, each written once and whole.

    path    the run's own folder; it belongs to one process at a time, to one configuration and to the same data
    shared  a folder in which steps lie by name and digest of their settings, for every run that needs the same; None:
            steps lie in the run's own folder
    chosen  what a refit takes over, JSON-ready; None: the run is no refit
    """

    def __init__(
        self, path: Path, config: TrainingConfig, shared: Path | None = None, chosen: dict[str, Any] | None = None
    ) -> None:
        self.path = path
        self.config = config
        self.shared = shared
        self.chosen = chosen
        self.claimed = False
        self._refuse_other_settings()

    def claim(self, data: Path, sha256: str) -> None:
        """Takes the folder for this process and these data.

        Raises ConfigError where another process works in it, or where it was begun with other data.
        """
        self.path.mkdir(parents=True, exist_ok=True)
        lock(self, self.path / "lock")
        path, found = self.path / "data.json", {"sha256": sha256}
        if path.exists() and read_json(path) != found:
            raise ConfigError(f"{data} has changed since {self.path} was begun; remove the folder to start anew")
        if self.chosen is not None:
            write_once(self.path / "refit.json", json.dumps(self.chosen, indent=2))
        write_once(path, json.dumps(found))
        write_once(self.path / "config.json", self.config.model_dump_json(indent=2))
        self.claimed = True

    @contextmanager
    def step(self, name: str, settings: dict[str, Any]) -> Iterator[Path]:
        """The folder of a step. A shared one is held meanwhile, and who wants the same waits for it."""
        if self.shared is None:
            yield self.path
            return
        text = json.dumps(settings, sort_keys=True)
        folder = self.shared / f"{name}-{hashlib.sha256(text.encode()).hexdigest()[:16]}"
        folder.mkdir(parents=True, exist_ok=True)
        with (folder / "lock").open("w") as stream:
            fcntl.flock(stream, fcntl.LOCK_EX)
            write_once(folder / "settings.json", text)
            yield folder

    def arrays(self, name: str, settings: dict[str, Any], make: Callable[[], Arrays]) -> Arrays:
        """The arrays of a step, made once and kept in `name`.npz."""
        with self.step(name, settings) as folder:
            path = folder / f"{name}.npz"
            if not path.exists():
                made = make()
                with written_whole(path) as aside, aside.open("wb") as stream:
                    np.savez(stream, **made)  # type: ignore[arg-type]
            with intact(path), path.open("rb") as file, np.load(file, allow_pickle=False) as stored:
                return {key: stored[key] for key in stored.files}

    def _refuse_other_settings(self) -> None:
        """Two configurations must not mix in one working folder; settings added since have their default there."""
        path = self.path / "config.json"
        if not path.exists():
            return
        remedy = "remove it or choose another --out"
        try:
            begun = TrainingConfig.model_validate(read_json(path)).recipe()
        except ValidationError:
            raise ConfigError(f"{self.path} was begun by a version with other settings; {remedy}") from None
        refit = self.path / "refit.json"
        chosen = read_json(refit, f"remove {self.path} and the same command begins anew") if refit.exists() else None
        if told := told_changes(begun | {"refit": chosen}, self.config.recipe() | {"refit": self.chosen}):
            raise ConfigError(f"{self.path} was begun with other settings ({told}); {remedy}")


def lock(owner: object, path: Path) -> None:
    """Held as long as `owner` lives, and dropped by the kernel when its process ends in any way."""
    descriptor = os.open(path, os.O_CREAT | os.O_RDWR, 0o644)
    weakref.finalize(owner, os.close, descriptor)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        raise ConfigError(f"another process is training in {path.parent}") from None


def write_once(path: Path, text: str) -> None:
    """Leaves a file that is there as it is; one that is not appears whole."""
    if not path.exists():
        with written_whole(path) as aside:
            aside.write_text(text)


def read_json(path: Path, remedy: str = REMEDY) -> Any:
    """What a file of `write_once` holds; TrainingError, with what to do about it, where it is damaged."""
    with intact(path, remedy):
        return json.loads(path.read_text())
