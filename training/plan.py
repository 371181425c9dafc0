"""A plan of training runs: a TOML file that names runs, what each changes, seeds, and what is measured.

preset = "small"                 of every run
set = ["stage1.epochs=40"]       changes of every run
seeds = [0, 1, 2]
orders = ["file", "shuffled"]    of events at one timestamp: as the file has them, or shuffled with seed 0
test = false                     whether the test set is measured too, or validation alone
reference = "prorec"             the run that the others are compared with, user by user

[[run]]
name = "without-alignment"
set = ["cka_weight=0"]
"""

import tomllib
from collections.abc import Sequence
from dataclasses import dataclass
from importlib.resources import files
from pathlib import Path
from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from .config import TrainingConfig, load_config
from .errors import ConfigError

Order = Literal["file", "shuffled"]
Kind = Literal["prorec", "sasrec", "popularity"]
_TIE_SEED: dict[Order, str] = {"file": "", "shuffled": "0"}


class PlannedRun(BaseModel):
    """One row of a study: a kind of model, and how it differs from the plan's preset."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    name: str = Field(pattern=r"^[a-z0-9][a-z0-9-]{0,39}$")
    kind: Kind = "prorec"
    set: tuple[str, ...] = ()
    seeds: tuple[int, ...] | None = Field(None, min_length=1, description="instead of the plan's")
    orders: tuple[Order, ...] | None = Field(None, min_length=1, description="instead of the plan's")


class Plan(BaseModel):
    """What a study does."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    preset: str = "small"
    set: tuple[str, ...] = ()
    seeds: tuple[int, ...] = Field((0,), min_length=1)
    orders: tuple[Order, ...] = Field(("shuffled",), min_length=1)
    test: bool = False
    reference: str | None = Field(
        None, description="name of the run that all rankings are compared with; without it the first PRORec, if any"
    )
    diagnosis_users: int = Field(2000, ge=1, description="validation users for beam widths and level accuracy")
    regret_users: int = Field(64, ge=1, description="validation users whose whole catalog is scored for the regret")
    beam_widths: tuple[Annotated[int, Field(ge=1)], ...] = Field(
        (5, 10, 20, 50, 100), min_length=1, description="compared with one another"
    )
    run: tuple[PlannedRun, ...] = Field(min_length=1)

    def changed(self, settings: Sequence[str], seeds: Sequence[int]) -> "Plan":
        """The same plan with more settings, which win over those of its runs, and with other seeds if any are given."""
        others = {"seeds": None} if seeds else {}
        runs = [run.model_copy(update={"set": (*run.set, *settings)} | others) for run in self.run]
        return self.model_copy(update={"run": tuple(runs), "seeds": tuple(dict.fromkeys(seeds)) or self.seeds})

    def only(self, names: Sequence[str], order: Order | None) -> "Plan":
        """The plan without its other runs and without the other order of events; no names, no order: with all.

        Raises ConfigError for a name that is none of its runs, and where nothing is left.
        """
        known = [run.name for run in self.run]
        if unknown := [name for name in names if name not in known]:
            raise ConfigError(f"the plan has no run {unknown[0]!r}; it has {', '.join(known)}")
        kept = [run for run in self.run if not names or run.name in names]
        if order is not None:
            there = [run for run in kept if order in (run.orders or self.orders)]
            kept = [run.model_copy(update={"orders": (order,)}) for run in there]
        if not kept:
            raise ConfigError(f"the plan has none of these runs with events of one day in the order {order!r}")
        reference = self.reference if any(run.name == self.reference for run in kept) else None
        return self.model_copy(update={"run": tuple(kept), "reference": reference})

    @property
    def compared_with(self) -> str | None:
        """The run that the others are compared with."""
        return self.reference or next((run.name for run in self.run if run.kind == "prorec"), None)

    def jobs(self) -> list["Job"]:
        """Every run with every seed and order; popularity once an order, as it draws nothing.

        Raises ConfigError for two runs of one name, for settings that cannot be used, and for a reference that is none
        of the runs.
        """
        names = [run.name for run in self.run]
        if twice := {name for name in names if names.count(name) > 1}:
            raise ConfigError(f"the plan names {', '.join(sorted(twice))} more than once")
        if self.reference is not None and self.reference not in names:
            raise ConfigError(f"reference: the plan has no run {self.reference}")
        return [
            Job(run, seed, order, self._config(run, seed, order))
            for run in self.run
            for order in run.orders or self.orders
            for seed in ((0,) if run.kind == "popularity" else run.seeds or self.seeds)
        ]

    def _config(self, run: PlannedRun, seed: int, order: Order) -> TrainingConfig:
        changes = ["export_text_encoder=false", *self.set, *run.set, f"seed={seed}", f"tie_seed={_TIE_SEED[order]}"]
        config = load_config(self.preset, changes)
        if run.kind == "sasrec" and config.sasrec is None:
            raise ConfigError(f"run {run.name}: sasrec is switched off, and there is nothing to train")
        return config


@dataclass(frozen=True)
class Job:
    """One training of a study."""

    run: PlannedRun
    seed: int
    order: Order
    config: TrainingConfig

    @property
    def key(self) -> str:
        return f"{self.run.name}-{self.order}-{self.seed}"


def read_plan(name: str) -> Plan:
    """A plan by the path of its file, or by the name of one that comes with the package.

    Raises ConfigError where there is none, and where it cannot be used.
    """
    packaged = files(__package__) / "plans" / f"{name}.toml"
    path = Path(name)
    if not path.is_file() and not packaged.is_file():
        raise ConfigError(f"there is no plan {name!r}; write a file's path or one of {', '.join(packaged_plans())}")
    try:
        values = tomllib.loads((path if path.is_file() else packaged).read_text(encoding="utf-8"))
        return Plan.model_validate(values)
    except UnicodeDecodeError as error:
        raise ConfigError(f"{name}: byte {error.start + 1} is not valid UTF-8") from None
    except tomllib.TOMLDecodeError as error:
        raise ConfigError(f"{name}: {error}") from None
    except ValidationError as error:
        first = error.errors()[0]
        if first["loc"] == ("run",):
            raise ConfigError(f"{name}: a plan has [[run]] tables, one for each run, with its name") from None
        raise ConfigError(f"{name}: {'.'.join(str(part) for part in first['loc'])}: {first['msg']}") from None


def packaged_plans() -> list[str]:
    """Names of the plans that come with the package."""
    return sorted(entry.name.removesuffix(".toml") for entry in (files(__package__) / "plans").iterdir())
