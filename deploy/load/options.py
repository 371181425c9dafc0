"""The options that all scenarios share."""

import importlib.util
import ipaddress
import os
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Final

import httpx
import typer

from ..errors import MisuseError

TOKEN_VARIABLE: Final = "PROREC_ADMIN_TOKEN"
_HERE: Final = f"http://127.0.0.1:{os.environ.get('PROREC_PORT', '8000')}"
_PLOTS: Final = (".png", ".html")


@dataclass(frozen=True)
class Options:
    """Whom to ask, what for, by how many clients, and what counts as good enough."""

    address: Annotated[str, typer.Option(help="The service; by default here, on PROREC_PORT or 8000.")] = _HERE
    anywhere: Annotated[bool, typer.Option("--anywhere", help="Load other machines than this one too.")] = False
    data: Annotated[Path | None, typer.Option(help="Dataset folder whose test histories are asked for.")] = None
    synthetic: Annotated[bool, typer.Option("--synthetic", help="Made-up histories instead.")] = False
    item_ids: Annotated[str, typer.Option(help="Of made-up histories, such as item-{}; else from GET /items.")] = ""
    item_count: Annotated[int, typer.Option(min=1, help="How many items made-up histories are about.")] = 10_000
    histories: Annotated[int, typer.Option(min=1, help="How many different ones.")] = 200
    k: Annotated[int, typer.Option(min=1, help="Items to ask for.")] = 10
    clients: Annotated[int, typer.Option(min=1, help="Client processes.")] = 2
    seed: Annotated[int, typer.Option(min=0, help="Of arrivals and made-up histories.")] = 0
    warm_up_s: Annotated[float, typer.Option(min=0, help="Load before it, whose latency does not count.")] = 2.0
    slo_ms: Annotated[float, typer.Option(min=0.1, help="The 99th percentile may be as high as this.")] = 100.0
    max_failures: Annotated[int, typer.Option(min=0, help="So many requests may fail.")] = 0
    progress_s: Annotated[
        float, typer.Option(min=0.1, help="From one line of progress to the next, off a terminal.")
    ] = 10.0
    json: Annotated[Path | None, typer.Option(help="File for the report as JSON.")] = None
    plot: Annotated[Path | None, typer.Option(help="File for percentiles over time: .png or .html.")] = None

    def check(self) -> None:
        """Raises MisuseError for what could only fail later, or load whom it should not."""
        if not self.anywhere and not _is_this_machine(self.address):
            raise MisuseError(f"{self.address} is not on this machine; to load it all the same, add --anywhere")
        if self.plot and self.plot.suffix not in _PLOTS:
            raise MisuseError(f"--plot {self.plot}: the name must end with {' or '.join(_PLOTS)}")
        if self.plot and importlib.util.find_spec("matplotlib") is None:
            raise MisuseError("--plot needs the package matplotlib: python -m pip install 'prorec-serve[load]'")
        for path in (self.json, self.plot):
            if path and not path.parent.is_dir():
                raise MisuseError(f"{path}: there is no folder {path.parent}")
            if path:
                _try_to_write(path)

    def check_histories(self) -> None:
        """Raises MisuseError unless they come from exactly one source."""
        if bool(self.data) == self.synthetic:
            raise MisuseError("histories come from --data DIR or from --synthetic: give one of the two")
        if self.item_ids and "{}" not in self.item_ids:
            raise MisuseError(f"--item-ids {self.item_ids}: {{}} must stand where the number goes")


def _try_to_write(path: Path) -> None:
    """Leaves what is there as it is."""
    existed = path.exists()
    try:
        path.open("ab").close()
    except OSError as error:
        raise MisuseError(f"{path} cannot be written: {error.strerror}") from None
    if not existed:
        path.unlink()


def admin_token() -> str:
    """Raises MisuseError where there is none."""
    token = os.environ.get(TOKEN_VARIABLE, "")
    if not token:
        raise MisuseError(f"this scenario changes the service and needs its token: set {TOKEN_VARIABLE}")
    return token


def _is_this_machine(address: str) -> bool:
    try:
        host = httpx.URL(address).host
        return host == "localhost" or ipaddress.ip_address(host).is_loopback
    except (httpx.InvalidURL, ValueError):
        return False
