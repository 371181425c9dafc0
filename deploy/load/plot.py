"""A report as a picture: percentiles over time, with what was done to the service, and the rate. Needs matplotlib."""

import html
import io
from pathlib import Path
from typing import Any, Final

_MOST_NAMED: Final = 25
_PERCENTILES: Final = ("p50", "p90", "p95", "p99")


def plot(found: dict[str, Any], path: Path) -> None:
    """Writes one .png, or one .html that needs nothing else. `found` is what `report` returns."""
    figure = _figure(found)
    if path.suffix == ".png":
        figure.savefig(path, dpi=120)
        return
    drawing = io.StringIO()
    figure.savefig(drawing, format="svg")
    svg = drawing.getvalue()
    path.write_text(_PAGE.format(title=html.escape(_title(found)), svg=svg[svg.index("<svg") :]))


def _figure(found: dict[str, Any]) -> Any:
    from matplotlib.figure import Figure  # without pyplot: no display, no global state

    figure = Figure(figsize=(11, 6), layout="constrained")
    above, below = figure.subplots(2, 1, sharex=True, height_ratios=(3, 1))
    begins = [row["at_s"] for row in found["windows"]]
    for name in _PERCENTILES:
        above.plot(begins, [row[f"{name}_ms"] for row in found["windows"]], label=name, linewidth=1.2)
    _mark(above, found["moments"])
    above.axhline(found["options"]["slo_ms"], color="grey", linestyle=":", label="SLO of p99")
    above.set(ylabel="latency, ms", title=_title(found), yscale="log")
    above.legend(loc="upper left", bbox_to_anchor=(1, 1), fontsize=8)
    below.step(begins, [row["rate_per_s"] for row in found["windows"]], where="post", label="answered")
    below.step(begins, [row["failed_per_s"] for row in found["windows"]], where="post", color="red", label="failed")
    below.set(xlabel="seconds", ylabel="requests/s")
    below.legend(loc="upper left", bbox_to_anchor=(1, 1), fontsize=8)
    return figure


def _mark(axes: Any, moments: list[dict[str, Any]]) -> None:
    """A line for each moment; with its text, while there is room."""
    crowded = len(moments) > _MOST_NAMED
    for moment in moments:
        axes.axvline(moment["at_s"], color="black", alpha=0.1 if crowded else 0.3, linewidth=0.8)
        if not crowded:
            axes.text(moment["at_s"], 0.99, moment["text"], rotation=90, fontsize=6, va="top", ha="right",
                      transform=axes.get_xaxis_transform())  # fmt: skip


def _title(found: dict[str, Any]) -> str:
    total, held = found["total"], "SLO held" if found["slo"]["held"] else "SLO not held"
    return f"{found['scenario']}: {total['answered']} answers, p99 {total['p99_ms']} ms, {held}"


_PAGE: Final = """<!doctype html>
<html lang="en"><meta charset="utf-8"><title>{title}</title>
<body style="font-family: sans-serif; margin: 1em">{svg}</body></html>
"""
