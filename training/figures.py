"""Figures of a study's report, as SVG text."""

import io
from collections.abc import Mapping, Sequence

from matplotlib.axes import Axes
from matplotlib.figure import Figure

Line = tuple[Sequence[float], Sequence[float]]
_WIDTH, _HEIGHT = 8.0, 4.0


def lines(panels: Mapping[str, Mapping[str, Line]], x: str, y: str, *, whole_numbers: bool = False) -> str:
    """One panel for each title, one line for each name: (x values, y values)."""
    figure, axes = _panels(len(panels))
    for axis, (title, named) in zip(axes, panels.items(), strict=True):
        for name, (across, up) in named.items():
            axis.plot(across, up, marker="o", markersize=3, linewidth=1.2, label=name)
        if whole_numbers:
            axis.set_xticks(sorted({place for across, _ in named.values() for place in across}))
        _label(axis, title, x, y)
    return _svg(figure, axes)


def bars(panels: Mapping[str, Mapping[str, Mapping[str, Sequence[float]]]], y: str) -> str:
    """One panel for each title; for each name a group of bars: the mean of each series' values, and their range."""
    figure, axes = _panels(len(panels), wide=True)
    for axis, (title, named) in zip(axes, panels.items(), strict=True):
        series = list(dict.fromkeys(label for groups in named.values() for label in groups))
        for number, label in enumerate(series):
            _bar_series(axis, named, label, number, len(series))
        axis.set_xticks(range(len(named)), list(named), rotation=30, ha="right", fontsize=7)
        _label(axis, title, "", y)
    return _svg(figure, axes)


def _bar_series(
    axis: Axes, named: Mapping[str, Mapping[str, Sequence[float]]], label: str, number: int, count: int
) -> None:
    there = [(place, groups[label]) for place, groups in enumerate(named.values()) if groups.get(label)]
    means = [sum(values) / len(values) for _, values in there]
    below = [mean - min(values) for mean, (_, values) in zip(means, there, strict=True)]
    above = [max(values) - mean for mean, (_, values) in zip(means, there, strict=True)]
    places = [place + (number - (count - 1) / 2) * 0.8 / count for place, _ in there]
    axis.bar(places, means, 0.8 / count, yerr=[below, above], capsize=2, label=label)


def _panels(count: int, *, wide: bool = False) -> tuple[Figure, list[Axes]]:
    across = 1 if wide or count == 1 else 2
    down = -(-count // across)
    figure = Figure(figsize=(_WIDTH, _HEIGHT * down * (0.9 if across == 2 else 1)), layout="constrained")
    grid = figure.subplots(down, across, squeeze=False)
    axes = [axis for row in grid for axis in row]
    for empty in axes[count:]:
        empty.set_visible(False)
    return figure, axes[:count]


def _label(axis: Axes, title: str, x: str, y: str) -> None:
    axis.set_title(title, fontsize=9)
    axis.set_xlabel(x, fontsize=8)
    axis.set_ylabel(y, fontsize=8)
    axis.tick_params(labelsize=7)
    axis.grid(alpha=0.25)


def _svg(figure: Figure, axes: Sequence[Axes]) -> str:
    for axis in axes:
        if len(axis.get_legend_handles_labels()[1]) > 1:
            axis.legend(fontsize=6)
    stream = io.StringIO()
    figure.savefig(stream, format="svg", metadata={"Date": None})
    return stream.getvalue().split("?>", 1)[1].split(">", 1)[1]  # an HTML page has no XML head inside
