"""The report of a study: one HTML file that needs no other, with tables of means and spreads, and figures."""

import html
from collections import defaultdict
from collections.abc import Mapping, Sequence
from importlib.util import find_spec
from pathlib import Path
from statistics import mean
from typing import Any

from .differences import ranking_name
from .errors import ConfigError
from .metrics import CUTOFFS
from .plan import Job
from .whole_files import written_whole

_METRICS = [f"{name}@{k}" for name in ("recall", "ndcg") for k in CUTOFFS]
_STYLE = """body{font:14px/1.45 sans-serif;max-width:1100px;margin:2em auto;padding:0 1em}
table{border-collapse:collapse}
td,th{border-bottom:1px solid #ccc;padding:2px 8px;text-align:right}td:first-child,th:first-child{text-align:left}
small{color:#666}svg{max-width:100%;height:auto}"""
_FIRST_TEN = ("recall@10", "ndcg@10")
_GROUPS = ("head", "tail", "cold")
_OF_GROUPS = "By the target's place in training: the fifth of the catalog with most events, the others, and those that \
training learned nothing about."
_ORDERS = {"shuffled": "ties shuffled", "file": "file order"}
Done = Mapping[str, dict[str, Any]]


def refuse_without_plots() -> None:
    """Raises ConfigError where the package for figures is missing."""
    if find_spec("matplotlib") is None:
        raise ConfigError("a study's report needs the package matplotlib: python -m pip install 'prorec-serve[study]'")


def write_report(
    done: Done,
    jobs: Sequence[Job],
    path: Path,
    title: str,
    compared: Sequence[Mapping[str, Any]] = (),
    reference: str | None = None,
) -> None:
    """Writes what is known so far of the jobs, keyed as in `done`; `compared`: their differences from `reference`."""
    found = [(job, done[job.key]) for job in jobs if job.key in done]
    head = f"<!doctype html><meta charset='utf-8'><title>{html.escape(title)}</title><style>{_STYLE}</style>"
    body = [f"<h1>{html.escape(title)}</h1><p>{len(found)} of {len(jobs)} runs done. Full ranking over the catalog; "
            "PRORec through its exported graph.</p>"]  # fmt: skip
    body += _tables(found) + _group_tables(found) + _differences(compared, reference) + _figures(found)
    with written_whole(path) as aside:
        aside.write_text(head + "\n".join(body) + "\n", encoding="utf-8")


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
        f"<h2>{split}, {_ORDERS[order]}, history {'masked' if masked else 'ranked too'}</h2>" + _table(methods)
        for (split, order, masked), methods in sorted(tables.items(), key=str, reverse=True)
    ]


def _group_tables(found: Found) -> list[str]:
    """A table for each held-out set and order of events: how well each group of targets is found, means over seeds."""
    tables: dict[tuple[str, str], dict[str, dict[str, list[dict[str, Any]]]]] = defaultdict(
        lambda: defaultdict(lambda: defaultdict(list))
    )
    for job, result in found:
        for row in result["rows"]:
            if row["items"] != "all" and row["history_masked"]:
                tables[row["split"], job.order][_method(job, row)][row["items"]].append(row)
    head = "<th></th>" + "".join(f"<th>{group}: users</th><th>recall@10</th><th>ndcg@10</th>" for group in _GROUPS)
    return [
        f"<h2>{split}, {_ORDERS[order]}, history masked: {', '.join(_GROUPS)} items</h2><p>{_OF_GROUPS}</p>"
        f"<table><tr>{head}</tr>"
        + "".join(
            f"<tr><td>{html.escape(name)}</td>{''.join(_group_cells(groups[group]) for group in _GROUPS)}</tr>"
            for name, groups in methods.items()
        )
        + "</table>"
        for (split, order), methods in sorted(tables.items(), reverse=True)
    ]


def _group_cells(rows: list[dict[str, Any]]) -> str:
    if not rows:
        return "<td>0</td><td></td><td></td>"
    return f"<td>{rows[0]['users']}</td>" + "".join(_cell([row[name] for row in rows]) for name in _FIRST_TEN)


def _differences(compared: Sequence[Mapping[str, Any]], reference: str | None) -> list[str]:
    """A table for each held-out set and order of events: a line a ranking, recall and NDCG side by side."""
    tables: dict[tuple[str, str], dict[str, list[str]]] = defaultdict(lambda: defaultdict(list))
    for row in compared:
        name = _title(row["run"], row["ranking"]), _title(reference or "", row["against"])
        tables[row["split"], row["order"]][" − ".join(name)] += _difference_cells(row)
    metrics = dict.fromkeys(row["metric"] for row in compared)
    head = "<th></th>" + "".join(
        f"<th>{metric}</th><th>95 % of users</th><th>p</th><th>seeds</th>" for metric in metrics
    )
    return [
        f"<h2>{split}, {_ORDERS[order]}, history masked: differences from {html.escape(reference or '')}</h2>"
        "<p>Over the same users: mean of the seeds that both have, a paired bootstrap over users, and the least and "
        "the greatest difference of two runs with the same seed.</p>"
        f"<table><tr>{head}</tr>"
        + "".join(f"<tr><td>{html.escape(name)}</td>{''.join(cells)}</tr>" for name, cells in lines.items())
        + "</table>"
        for (split, order), lines in sorted(tables.items(), reverse=True)
    ]


def _difference_cells(row: Mapping[str, Any]) -> list[str]:
    seeds = f"{row['least']:+.4f} … {row['greatest']:+.4f} ({row['seeds']})" if row["seeds"] > 1 else str(row["seeds"])
    interval = f"{row['low']:+.4f} … {row['high']:+.4f}"
    return [f"<td>{cell}</td>" for cell in (f"{row['difference']:+.4f}", interval, f"{row['p_value']:.3f}", seeds)]


def _title(run: str, ranking: str) -> str:
    """As the tables of metrics call it."""
    name, _, scores = ranking.partition(", ")
    if name == "prorec":
        return f"{run}, {scores}"
    return f"{run}, stage I ranks" if name == "stage1" else run


def _method(job: Job, row: Mapping[str, Any]) -> str:
    """What a row is called: the run, and which of its rankings."""
    return _title(job.run.name, ranking_name(row["method"], rescored=row["rescored"]))


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
        ("Head, tail and cold items", f"Recall@10. {_OF_GROUPS}", figures.bars(_group_bars(found), "recall@10")),
        ("Learning curves", "Validation NDCG@10 by epoch.", figures.lines(_curves(found), "epoch", "NDCG@10")),
    ]  # fmt: skip
    if first:
        drawn += _code_figures(first)
    return [f"<h2>{name}</h2><p>{text}</p>{svg}" for name, text, svg in drawn]


def _code_figures(first: Mapping[str, dict[str, Any]]) -> list[tuple[str, str, str]]:
    from . import figures

    use = {name: result["code_use"] for name, result in first.items()}
    kinds = (("codes alone", "codes"), ("guided", "rescored"))
    regret = {
        title: {name: {part: [result["beam_regret"][kind][part]] for part in ("beam", "exhaustive", "overlap")}
                for name, result in first.items()}
        for title, kind in kinds
    } | {
        "regret": {name: {title: [result["beam_regret"][kind]["regret"]] for title, kind in kinds}
                   for name, result in first.items()}
    }  # fmt: skip
    return [
        ("Which modality explains the codes", "Items that share the first tokens of a code: the share of them that are "
         "among the item's nearest by collaboration (who took what with what: a singular value decomposition of the "
         "training events, the same for all runs) and by text.",
         figures.lines(_of_modalities(first, "domination"), "tokens shared", "share explained", whole_numbers=True)),
        ("How much of each modality the tokens tell", "The share of the variance of those vectors, and of the "
         "integrated embedding that was quantized, that is gone when every token of the first levels has told what its "
         "items have in common.",
         figures.lines(_of_modalities(first, "explained_variance"), "levels", "share of variance", whole_numbers=True)),
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
                        for title, part in (("codes alone", "codes"), ("guided", "rescored"),
                                            ("anywhere in the beam", "anywhere"))}, "beam width", "recall")),
        ("Beam regret", "Recall@10 of the beam and of scoring the whole catalog through the same network, and how much "
         "of the exhaustive first 10 the beam has. Regret: the best of all scores minus the beam's best.",
         figures.bars(regret, "")),
        *_distillation(first),
    ]  # fmt: skip


def _distillation(first: Mapping[str, dict[str, Any]]) -> list[tuple[str, str, str]]:
    from . import figures

    taught = {name: result["distillation"] for name, result in first.items() if "distillation" in result}
    if not taught:
        return []
    panels = {
        modality: {name: {pair: [share] for pair, share in result[modality].items()} for name, result in taught.items()}
        for modality in ("collaborative", "semantic")
    }
    text = (
        "Share of users whose target is nearest, of all items, to what distillation made of the state after the code: "
        "with the user's own state and the target's code, with another user's state, and with another item's code."
    )
    return [("What distillation reads", text, figures.bars(panels, "targets found"))]


def _first_of_each(found: Found) -> dict[str, dict[str, Any]]:
    """Diagnoses are shown for one seed and order of each run, which its key names."""
    shown: dict[str, tuple[str, dict[str, Any]]] = {}
    for job, result in found:
        shown.setdefault(job.run.name, (job.key, result))
    return dict(shown.values())


def _by_level(values: Sequence[float]) -> tuple[list[float], list[float]]:
    return [float(level) for level in range(1, len(values) + 1)], list(values)


def _of_modalities(
    first: Mapping[str, dict[str, Any]], figure: str
) -> dict[str, dict[str, tuple[list[float], list[float]]]]:
    return {
        name: {part: _by_level([at[part] for at in result[figure]])
               for part in ("collaborative", "semantic", "integrated", "chance") if part in result[figure][0]}
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
                for metric in _FIRST_TEN:
                    groups[metric].append(row[metric])
    return panels


def _group_bars(found: Found) -> dict[str, dict[str, dict[str, list[float]]]]:
    panels: dict[str, dict[str, dict[str, list[float]]]] = defaultdict(lambda: defaultdict(lambda: defaultdict(list)))
    for job, result in found:
        for row in result["rows"]:
            if row["items"] != "all" and row["history_masked"]:
                panels[f"{row['split']}, {job.order}"][_method(job, row)][row["items"]].append(row["recall@10"])
    return panels
