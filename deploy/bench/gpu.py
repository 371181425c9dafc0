"""The engine on a GPU: one command that proves it, measures it, and needs neither torch nor a network.

    python -m deploy.bench.gpu prepare var/gpu --trained ARTIFACT --data DIR     where torch is; then carry var/gpu
    python -m deploy.bench.gpu run var/gpu                                       where the GPU is
    python -m deploy.bench.gpu run var/gpu --provider cpu --small                the same without one, to try it

`run` needs numpy, pydantic, onnxruntime-gpu[cuda,cudnn] and this repository. It checks answers against the CPU, asserts
that nothing but arithmetic of shapes is left on the CPU, and prints times; with the service's requirements installed it
also measures through HTTP. Everything goes to FOLDER/results.json as well, part by part. The exit code says whether
answers and placement are as they must be; goals of speed that are not met are named.
"""

import argparse
import json
import platform
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace
from functools import partial
from importlib.metadata import version
from pathlib import Path
from typing import Any, Final

from service.engine.devices import CUDA, SearchError, choose_provider
from service.engine.gpu_search import GpuSearch
from service.engine.search import Found, GraphSearch

from ..errors import BenchError
from .findings import Finding, unmet
from .gpu_folder import (
    BEAMS,
    HISTORIES,
    NETWORKS,
    TRAINED,
    Candidate,
    candidate,
    random_rows,
    read_histories,
    unseen_rows,
)
from .gpu_grid import Cell, measure, opened, placed, rate_findings, selection_finding
from .gpu_parity import answers, compare, parity_finding

_ALL_BATCHES: Final = (1, 8, 32, 128, 256, 512, 1024)
_PRECISIONS: Final = ("fp32", "fp16")


@dataclass(frozen=True)
class Sizes:
    """What is measured."""

    beams: tuple[int, ...] = BEAMS
    batches: tuple[int, ...] = _ALL_BATCHES
    histories: int = 10_000
    rounds: int = 9
    http_s: float = 5.0


SMALL: Final = Sizes(beams=(20,), batches=(1, 8), histories=100, rounds=3, http_s=1.0)


@dataclass
class Report:
    """What has been found so far; every line is printed as it comes."""

    findings: list[Finding] = field(default_factory=list)
    cells: list[Cell] = field(default_factory=list)
    placement: dict[str, str] = field(default_factory=dict)
    failed: list[str] = field(default_factory=list)
    left_out: list[str] = field(default_factory=list)

    def add(self, finding: Finding) -> None:
        self.findings.append(finding)
        print(finding.line(), flush=True)

    def as_json(self) -> dict[str, Any]:
        return {
            "findings": [finding.as_row() for finding in self.findings],
            "grid": [cell.as_row() for cell in self.cells],
            "placement": self.placement,
            "failed": self.failed,
            "left_out": self.left_out,
        }


class GpuBench:
    """One folder on one device."""

    def __init__(self, folder: Path, provider: str, sizes: Sizes) -> None:
        self._folder, self._provider, self._sizes = folder, provider, sizes
        self._on_gpu = provider == CUDA
        runtime = f"onnxruntime-gpu {version('onnxruntime-gpu')}"
        self.machine = f"{platform.machine()}, Python {platform.python_version()}, {runtime}"
        self._wanted: dict[str, list[Found]] = {}  # what the CPU finds in 32 bits, for each network
        self.report = Report()

    def run(self) -> None:
        for name in NETWORKS:
            network = candidate(self._folder, name)
            # Launched before captured: a capture that fails may leave the device unusable for what follows.
            modes = [(precision, graphs) for precision in _PRECISIONS for graphs in (False, True)[: 1 + self._on_gpu]]
            for precision, graphs in modes:
                what = f"{name} {precision}{', captured' if graphs else ''}"
                self._tried(what, partial(self._network, network, precision, graphs, what))
            self._tried(f"{name} selection", partial(self._selection, network))
        if (self._folder / TRAINED).exists():
            self._tried("trained", self._trained)
        else:
            self.report.left_out.append("answers of a trained model on real histories: the folder holds none")
        for finding in rate_findings(self.report.cells):
            self._add(finding)
        self._http()
        self._keep()

    def _network(self, network: Candidate, precision: str, graphs: bool, what: str) -> None:
        """Answers, placement and the grid of one network in one precision, with captured graphs or without."""
        sizes = self._sizes
        search = opened(network, self._provider, precision, graphs=graphs, beams=sizes.beams, most=max(sizes.batches))
        self.report.placement[what] = placed(search)
        print(f"{what}: {placed(search)}", flush=True)
        rows = random_rows(network.artifact, sizes.histories, 20, seed=1)
        if network.name not in self._wanted:
            self._wanted[network.name] = answers(
                GraphSearch(network.artifact, 0), network.artifact, rows, sizes.beams[-1]
            )
        found = compare(answers(search, network.artifact, rows, sizes.beams[-1]), self._wanted[network.name])
        how = f"{network.name}, random histories{', captured' if graphs else ''}"
        self.report.add(parity_finding(how, found, precision))
        for beams in sizes.beams:
            for batch in sizes.batches:
                cell = measure(network, search, precision, beams, batch)
                self.report.cells.append(cell)
                print(cell.line(), flush=True)

    def _selection(self, network: Candidate) -> None:
        for batch in (self._sizes.batches[0], self._sizes.batches[-1]):
            self._add(selection_finding(network, self._provider, self._sizes.beams[-1], batch, self._sizes.rounds))

    def _trained(self) -> None:
        """Real histories, what users have seen left out, as the engine asks."""
        trained = candidate(self._folder, TRAINED)
        beams = trained.artifact.manifest.default_beam_width
        rows = unseen_rows(trained.artifact, read_histories(self._folder / TRAINED / HISTORIES))
        rows = rows[: self._sizes.histories]
        wanted = answers(GraphSearch(trained.artifact, 0), trained.artifact, rows, beams)
        for precision in _PRECISIONS:
            search = GpuSearch(trained.artifact, models=trained.models(precision, (beams,)), provider=self._provider)
            self.report.placement[f"{trained.name} {precision}"] = placed(search)  # one of an earlier export: as it is
            found = compare(answers(search, trained.artifact, rows, beams), wanted)
            what = f"{trained.artifact.manifest.model_version}, real histories"
            self.report.add(parity_finding(what, found, precision))

    def _http(self) -> None:
        if not self._sizes.http_s:
            self.report.left_out.append("through HTTP: --no-http")
            return
        try:
            from .gpu_http import http_findings
        except ImportError as error:
            self.report.left_out.append(f"through HTTP: {error}")
            return
        self._tried("through HTTP", lambda: self._all_http(http_findings))

    def _all_http(self, measured: Any) -> None:
        network, sizes = candidate(self._folder, NETWORKS[0]), self._sizes
        findings: Iterator[Finding] = measured(network, self._provider, sizes.beams[-1], sizes.http_s)
        for finding in findings:
            self._add(finding)

    def _add(self, finding: Finding) -> None:
        """A figure whose goal is a GPU's."""
        self.report.add(finding if self._on_gpu else replace(finding, goal=None))

    def _tried(self, what: str, part: Callable[[], None]) -> None:
        """The parts that follow are measured whatever becomes of this one; what there is so far is kept."""
        try:
            part()
        except Exception as error:  # ONNX Runtime's errors have no class in common
            self.report.failed.append(f"{what}: {type(error).__name__}: {error}")
            print(f"failed: {self.report.failed[-1]}", flush=True)
        self._keep()

    def _keep(self) -> None:
        results = {"machine": self.machine, "provider": self._provider, **self.report.as_json()}
        (self._folder / "results.json").write_text(json.dumps(results, indent=2) + "\n")


def run(folder: Path, provider: str, sizes: Sizes) -> int:
    """Measures and writes FOLDER/results.json; returns the exit code."""
    bench = GpuBench(folder, provider, sizes)
    print(f"{provider}, {bench.machine}", flush=True)
    bench.run()
    report = bench.report
    for missing in report.left_out:
        print(f"left out: {missing}")
    if missed := unmet(report.findings):
        print(f"goals not met: {'; '.join(missed)}")
    return int(bool(report.failed) or any(f.row == "parity" and f.met is False for f in report.findings))


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser("deploy.bench.gpu", description=(__doc__ or "").split("\n")[0])
    commands = parser.add_subparsers(dest="command", required=True)
    preparing = commands.add_parser("prepare", help="fill a folder; needs torch")
    running = commands.add_parser("run", help="measure what a folder holds")
    for command in (preparing, running):
        command.add_argument("folder", type=Path, help="what `prepare` fills and `run` reads, such as var/gpu")
    preparing.add_argument(
        "--work", type=Path, default=Path("var/bench-gpu"), help="where exported networks are kept for the next time"
    )
    preparing.add_argument("--trained", type=Path, help="a trained artifact, for answers on real histories")
    preparing.add_argument("--data", type=Path, help="the dataset folder it was trained on")
    preparing.add_argument("--histories", type=int, default=10_000, help="users of that data, at most (10000)")
    running.add_argument("--provider", choices=("cuda", "cpu"), default="cuda", help="cpu: to try it (cuda)")
    running.add_argument("--small", action="store_true", help="a few small sizes, to see that it runs")
    running.add_argument("--no-http", action="store_true", help="the engine alone")
    return parser


def main(arguments: list[str] | None = None) -> int:
    options = _parser().parse_args(arguments)
    try:
        return _command(options)
    except (BenchError, SearchError) as error:
        print(error, file=sys.stderr)
        return 2


def _command(options: argparse.Namespace) -> int:
    if options.command == "prepare":
        from .gpu_prepare import prepare_folder

        prepare_folder(options.folder, options.work, options.trained, options.data, options.histories)
        return 0
    provider = choose_provider(options.provider)
    sizes = SMALL if options.small else Sizes()
    return run(options.folder, provider, replace(sizes, http_s=0.0) if options.no_http else sizes)


if __name__ == "__main__":
    sys.exit(main())
