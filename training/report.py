"""The report of a study: one HTML file that needs no other, with tables of means and spreads, and figures."""

import html
from collections import defaultdict
from collections.abc import Mapping, Sequence
from importlib.util import find_spec
from pathlib import Path
from statistics import mean
from typing import Any

from .errors import ConfigError
from .metrics import CUTOFFS
from .plan import Job

_METRICS = [f"{name}@{k}" for name in ("recall", "ndcg") for k in CUTOFFS]
_STYLE = """body{font:14px/1.45 sans-serif;max-width:1100px;margin:2em auto;padding:0 1em}
table{border-collapse:collapse}
td,th{border-bottom:1px solid #ccc;padding:2px 8px;text-align:right}td:first-child,th:first-child{text-align:left}
small{color:#666}svg{max-width:100%;height:auto}"""
Done = Mapping[str, dict[str, Any]]


def refuse_without_plots() -> None:
    """Raises ConfigError where the package for figures is missing."""
    if find_spec("matplotlib") is None:
        raise ConfigError("a study's report needs the package matplotlib: pip install 'prorec-serve[study]'")


def write_report(done: Done, jobs: Sequence[Job], path: Path, title: str) -> None:
    """Writes what is known so far of the jobs, keyed as in `done`."""
    found = [(job, done[job.key]) for job in jobs if job.key in done]
    head = f"<!doctype html><meta charset='utf-8'><title>{html.escape(title)}</title><style>{_STYLE}</style>"
    body = [f"<h1>{html.escape(title)}</h1><p>{len(found)} of {len(jobs)} runs done. Full ranking over the catalog; "
            "PRORec through its exported graph.</p>"]  # fmt: skip
    body += _tables(found) + _figures(found)
    aside = path.with_suffix(".writing")
    aside.write_text(head + "\n".join(body) + "\n", encoding="utf-8")
    aside.replace(path)


Found = list[tuple[Job, dict[str, Any]]]
Key = tuple[str, str, str]


def _tables(found: Found) -> list[str]:
    """A table for each held-out set, order of events and mask: means over seeds, with the range below."""
    tables: dict[tuple[str, str, bool], dict[str, list[dict[str, Any]]]] = defaultdict(lambda: defaultdict(list))
    for job, result in found:
        for row in result["rows"]:
            if row["items"] == "all":
                tables[row["split"], job.order, row["history_masked"]][_method(job, row)].append(row)
    return [
        f"<h2>{split}, {'ties shuffled' if order == 'shuffled' else 'file order'}, history "
        f"{'masked' if masked else 'ranked too'}</h2>" + _table(methods)
        for (split, order, masked), methods in sorted(tables.items(), key=str, reverse=True)
    ]


def _method(job: Job, row: Mapping[str, Any]) -> str:
    """What a row is called: the run, and which of its rankings."""
    if row["method"] == "prorec":
        return f"{job.run.name}, {'rescored' if row['rescored'] else 'codes only'}"
    return job.run.name if row["method"] in ("sasrec", "popularity") else f"{job.run.name}, stage I ranks"


def _table(methods: Mapping[str, list[dict[str, Any]]]) -> str:
    head = "".join(f"<th>{name}</th>" for name in ("", "seeds", *_METRICS))
    lines = [
        f"<tr><td>{html.escape(name)}</td><td>{len(rows)}</td>"
        + "".join(_cell([row[metric] for row in rows]) for metric in _METRICS)
        + "</tr>"
        for name, rows in methods.items()
    ]
    return f"<table><tr>{head}</tr>{''.join(lines)}</table>"


def _cell(values: list[float]) -> str:
    spread = f"<br><small>{min(values):.4f}–{max(values):.4f}</small>" if len(values) > 1 else ""
    return f"<td>{mean(values):.4f}{spread}</td>"


def _figures(found: Found) -> list[str]:
    from . import figures

    trained = [(job, result) for job, result in found if "code_use" in result]
    first = _first_of_each(trained)
    drawn = [
        ("Metrics by run", "History masked; bars are means over seeds, whiskers their range.",
         figures.bars(_metric_bars(found), "")),
        ("Head, tail and cold items", "Recall@10 by the target's place in training: the fifth of the catalog with most "
         "events, the rest, and items without an event.", figures.bars(_group_bars(found), "recall@10")),
        ("Learning curves", "Validation NDCG@10 by epoch.", figures.lines(_curves(found), "epoch", "NDCG@10")),
    ]  # fmt: skip
    if first:
        drawn += _code_figures(first)
    return [f"<h2>{name}</h2><p>{text}</p>{svg}" for name, text, svg in drawn]


def _code_figures(first: Mapping[str, dict[str, Any]]) -> list[tuple[str, str, str]]:
    from . import figures

    use = {name: result["code_use"] for name, result in first.items()}
    regret = {
        title: {name: {part: [result["beam_regret"][kind][part]] for part in ("beam", "exhaustive", "overlap")}
                for name, result in first.items()}
        for title, kind in (("codes only", "codes"), ("rescored", "rescored"))
    }  # fmt: skip
    return [
        ("Which modality explains the codes", "Items that share the first tokens of a code: the share of them that are "
         "among the item's nearest by collaborative vectors (SASRec's; stage I's, which know the text, where no SASRec "
         "was trained) and by text.",
         figures.lines(_domination(first), "tokens shared", "share explained", whole_numbers=True)),
        ("Code use and collisions by level", "",
         figures.lines({title: {name: _by_level([level[part] for level in levels]) for name, levels in use.items()}
                        for title, part in (("tokens used", "used"), ("perplexity / V", "perplexity"),
                                            ("prefix shared, before codes were made unique", "shared_before"),
                                            ("prefix shared, final codes", "shared"))},
                       "level", "share", whole_numbers=True)),
        ("Accuracy by level", "Most probable of its siblings is the target's token, the tokens before it given.",
         figures.lines({"": {name: _by_level(result["level_accuracy"]) for name, result in first.items()}}, "level",
                       "share of users", whole_numbers=True)),
        ("Beam width", "Recall@10, and how often the target is anywhere in the beam.",
         figures.lines({title: {name: ([at["width"] for at in result["beam_recall"]],
                                       [at[part] for at in result["beam_recall"]]) for name, result in first.items()}
                        for title, part in (("codes only", "codes"), ("rescored", "rescored"),
                                            ("anywhere in the beam", "anywhere"))}, "beam width", "recall")),
        ("Beam regret", "Recall@10 of the beam and of scoring the whole catalog through the same network, and how much "
         "of the exhaustive first 10 the beam has.", figures.bars(regret, "")),
    ]  # fmt: skip


def _first_of_each(found: Found) -> dict[str, dict[str, Any]]:
    """Diagnoses are shown for one seed and order of each run."""
    shown: dict[str, dict[str, Any]] = {}
    for job, result in found:
        shown.setdefault(job.run.name, result)
    return shown


def _by_level(values: Sequence[float]) -> tuple[list[float], list[float]]:
    return [float(level) for level in range(1, len(values) + 1)], list(values)


def _domination(first: Mapping[str, dict[str, Any]]) -> dict[str, dict[str, tuple[list[float], list[float]]]]:
    return {
        name: {part: _by_level([at[part] for at in result["domination"]])
               for part in ("collaborative", "semantic", "chance")}
        for name, result in first.items()
    }  # fmt: skip


def _curves(found: Found) -> dict[str, dict[str, tuple[list[float], list[float]]]]:
    panels: dict[str, dict[str, tuple[list[float], list[float]]]] = defaultdict(dict)
    for job, result in found:
        for stage, curve in result["curves"].items():
            epochs, values = [point[0] for point in curve["history"]], [point[2] for point in curve["history"]]
            panels[stage][job.key] = (epochs, values)
    return panels or {"": {}}


def _metric_bars(found: Found) -> dict[str, dict[str, dict[str, list[float]]]]:
    """Panels by held-out set and order, of recall@10 and NDCG@10."""
    panels: dict[str, dict[str, dict[str, list[float]]]] = defaultdict(lambda: defaultdict(lambda: defaultdict(list)))
    for job, result in found:
        for row in result["rows"]:
            if row["items"] == "all" and row["history_masked"]:
                groups = panels[f"{row['split']}, {job.order}"][_method(job, row)]
                for metric in ("recall@10", "ndcg@10"):
                    groups[metric].append(row[metric])
    return panels


def _group_bars(found: Found) -> dict[str, dict[str, dict[str, list[float]]]]:
    panels: dict[str, dict[str, dict[str, list[float]]]] = defaultdict(lambda: defaultdict(lambda: defaultdict(list)))
    for job, result in found:
        for row in result["rows"]:
            if row["items"] != "all" and row["history_masked"]:
                panels[f"{row['split']}, {job.order}"][_method(job, row)][row["items"]].append(row["recall@10"])
    return panels
