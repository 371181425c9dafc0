"""The grid's results as Markdown: one table a network, then what failed, and how much of the grid was left out."""

import statistics
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any, Final

from .cells import BEAMS, NAMES, WANTED, grid

_PEERS: Final = ("eager", "generate", "free")
_FREE: Final = {
    "invalid": "beams that name no item",
    f"missing_of_{WANTED}": f"missing of {WANTED} items after its post-filter",
}
_DIMENSIONS: Final = NAMES[1:]

Row = Mapping[str, Any]


def markdown(rows: Iterable[Row]) -> Iterator[str]:
    """Lines. Of several rows of one cell, as other graphs or numbers of threads leave them, the last one counts."""
    latest = {tuple(row[name] for name in NAMES): row for row in rows}
    measured = [row for row in latest.values() if "error" not in row]
    for network in dict.fromkeys(row["network"] for row in measured):
        yield from _table(network, [row for row in measured if row["network"] == network])
    yield from (f"* failed: {_cell(row)}: {row['error']}" for row in latest.values() if "error" in row)
    yield from _left_out(latest.keys())


def _table(network: str, rows: Sequence[Row]) -> Iterator[str]:
    beams = [width for width in BEAMS if any(row["beams"] == width for row in rows)]
    yield f"| {network}: items, history, batch | " + " | ".join(f"beam {width}" for width in beams) + " |"
    yield "|---" * (1 + len(beams)) + "|"
    cells = {(row["items"], row["history"], row["batch"], row["beams"]): row for row in rows}
    for items, history, batch in sorted({key[:3] for key in cells}):
        figures = (_figures(cells.get((items, history, batch, width))) for width in beams)
        yield f"| {items:,}, {history}, {batch} | " + " | ".join(figures) + " |"
    yield ""
    for peer in _PEERS:
        ratios = [row[f"{peer}_ratio"] for row in rows if f"{peer}_ratio" in row]
        if len(ratios) > 1:
            low, middle, high = map(_short, statistics.quantiles(ratios))
            yield f"* {network}, {peer}: median {middle} × in {len(ratios)} cells, half of them {low} to {high} ×"
    for name, what in _FREE.items():
        shares = [100 * row[name] for row in rows if name in row]
        if shares:
            low, middle, high = map(_short, (min(shares), statistics.median(shares), max(shares)))
            yield f"* {network}, free: {what}: median {middle} % in {len(shares)} cells, {low} to {high} %"
    yield ""


def _figures(row: Row | None) -> str:
    """Milliseconds a batch, then how many times as long each peer takes."""
    if row is None:
        return "–"
    ratios = (f"{name} {_short(row[f'{name}_ratio'])} ×" for name in _PEERS if f"{name}_ratio" in row)
    return f"{_short(row['engine_ms'])} ms; " + ", ".join(ratios)


def _short(value: float) -> str:
    return f"{value:,.0f}" if value >= 100 else f"{value:.3g}"


def _cell(row: Row) -> str:
    return ", ".join(f"{name} {row[name]}" for name in NAMES)


def _left_out(done: Iterable[tuple[Any, ...]]) -> Iterator[str]:
    """How many cells of the whole grid have a row, and of which sizes some have none."""
    everything = [tuple(cell.as_row().values()) for cell in grid()]
    tried = set(done) & set(everything)
    yield f"* {len(tried)} of {len(everything)} cells of the grid were tried"
    for name in _DIMENSIONS:
        place = NAMES.index(name)
        of_all, of_tried = (Counter(cell[place] for cell in cells) for cells in (everything, tried))
        shares = (f"{value:,}: {of_tried[value]} of {count}" for value, count in of_all.items())
        yield f"* tried by {name}: " + ", ".join(shares)
