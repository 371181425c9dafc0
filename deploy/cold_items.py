"""How well items are found that joined the catalog after training, on real data.

    python -m deploy.cold_items --data DIR --work FOLDER --preset small --set stage2.epochs=8 …

A share of the items is taken out of a dataset, rows and events. A model is trained without them, then they are added
to its artifact from their text alone, and every user whose last event is one of them is asked for: the history is what
the user took before, the whole catalog is searched, the history is masked out. A second model with codes from text
alone (`integrated=semantic`), on the same stage I, is measured beside it. Users whose last event is a known item show
what the added items cost the others. What is done already, in FOLDER, is not done again.
"""

import csv
import gzip
import json
import shutil
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import typer
from numpy.typing import NDArray
from rich.console import Console
from rich.table import Table

from models.artifact import Artifact
from models.codes import CodeTable
from models.graph import Inputs, catalog_inputs, trie_inputs
from models.insertion import find, insert
from models.item_encoder import ItemEncoder
from models.item_text import item_text
from models.text_encoder import TextEncoder
from models.trie import CodeTrie
from training.config import load_config
from training.export import GraphSearch
from training.interactions import EVENT_COLUMNS, INTERACTIONS_NAME, ITEMS_NAME, Interactions, read_dataset
from training.log import log_to_stderr
from training.metrics import ranks_of_targets, recall_at
from training.package import search_row
from training.pipeline import Run
from training.ranking import masked_items

from .commands import run

_K = 50
_SPLIT = "split.json"
_ROWS = 64
_RANKED_BY = ("codes alone", "guided")
_MODELS = {"prorec": (), "semantic": ("integrated=semantic",)}
_SHARED = ("text.npz", "text_encoder", "stage1.safetensors")  # of a working folder, the same for both models


@dataclass(frozen=True)
class Split:
    """How a dataset is read and which of its items stay out of training: the same for whoever has the same values."""

    share: float  # of the items
    seed: int
    tie_seed: int | None  # order of events of one moment, as in training; None: that of the files
    skip_wrong_rows: int = field(compare=False)  # what is read under another limit is the same, or refused

    @classmethod
    def of(cls, work: Path) -> "Split":
        """What `keep` wrote; raises FileNotFoundError."""
        return cls(**json.loads((work / _SPLIT).read_text()))

    def keep(self, work: Path) -> None:
        """Raises ValueError where the folder is one of another split."""
        if (work / _SPLIT).exists() and Split.of(work) != self:
            raise ValueError(f"{work} holds another split: {Split.of(work)}")
        work.mkdir(parents=True, exist_ok=True)
        (work / _SPLIT).write_text(json.dumps(asdict(self)) + "\n")

    def read(self, data: Path) -> tuple[Interactions, NDArray[np.bool_]]:
        """The whole dataset, and which items are held out, bool [N]."""
        whole = read_dataset(data, tie_seed=self.tie_seed, skip_wrong_rows=self.skip_wrong_rows)
        return whole, hold_out(len(whole.item_ids), self.share, self.seed)


@dataclass(frozen=True)
class Ask:
    """One user's last event.

    history  item ids before it that training knew, oldest first
    target   item id
    """

    history: list[str]
    target: str


@dataclass(frozen=True)
class Catalog:
    """An artifact's items, perhaps with added ones behind them."""

    item_index: dict[str, int]
    trie: CodeTrie
    inputs: Inputs


def main(
    data: Annotated[Path, typer.Option(help="Dataset folder.")],
    work: Annotated[Path, typer.Option(help="Folder for the reduced dataset, both models and the results.")],
    preset: str = "small",
    change: Annotated[list[str] | None, typer.Option("--set", help="A setting of training, for both models.")] = None,
    share: Annotated[float, typer.Option(help="Share of the items that training does not see.")] = 0.05,
    seed: Annotated[int, typer.Option(help="Which items, and which users with known items.")] = 0,
    beams: Annotated[str, typer.Option(help="Beam widths to search with.")] = "50,128",
    users: Annotated[int, typer.Option(help="Users with a known last item to measure, at most.")] = 4096,
) -> None:
    """Prints a table and writes FOLDER/cold_items.json."""
    log_to_stderr()
    changes = [*(change or []), f"beam_widths={beams}", f"default_beam_width={beams.split(',')[0]}"]
    config = load_config(preset, changes)
    split = Split(share, seed, config.tie_seed, config.skip_wrong_rows)
    whole, cold = split.read(data)
    try:
        split.keep(work)
    except ValueError as error:
        raise typer.BadParameter(str(error), param_hint="--work") from None
    if not (work / "data").exists():
        write_without(whole, cold, work / "data")
    added = [item for item, is_cold in zip(whole.items, cold.tolist(), strict=True) if is_cold]
    asks = last_events(whole, cold)
    warm = np.random.default_rng(seed).permutation(len(asks["known"]))[:users]
    asks["known"] = [asks["known"][row] for row in np.sort(warm).tolist()]
    rows = []
    for name, extra in _MODELS.items():
        artifact = trained(work, name, preset, [*changes, *extra])
        rows += measure(artifact, name, added, asks)
    (work / "cold_items.json").write_text(json.dumps(rows, indent=2) + "\n")
    show(rows, f"{data.name}: {len(added)} of {len(whole.item_ids)} items added after training")


def hold_out(item_count: int, share: float, seed: int) -> NDArray[np.bool_]:
    """Which items stay out of training, bool [N]."""
    cold = np.zeros(item_count, dtype=bool)
    cold[np.random.default_rng(seed).choice(item_count, round(item_count * share), replace=False)] = True
    return cold


def write_without(interactions: Interactions, cold: NDArray[np.bool_], folder: Path) -> None:
    """A dataset folder without the rows and the events of the cold items."""
    aside = folder.with_name(f"{folder.name}.writing")
    shutil.rmtree(aside, ignore_errors=True)
    aside.mkdir(parents=True)
    kept = [row for row, is_cold in zip(interactions.items, cold.tolist(), strict=True) if not is_cold]
    with gzip.open(aside / f"{ITEMS_NAME}.gz", "wt", encoding="utf-8", newline="") as stream:
        stream.writelines(json.dumps(row, allow_nan=False) + "\n" for row in kept)
    user = np.repeat(np.arange(len(interactions.user_ids)), np.diff(interactions.offsets))
    with gzip.open(aside / f"{INTERACTIONS_NAME}.gz", "wt", encoding="utf-8", newline="") as stream:
        writer = csv.writer(stream, lineterminator="\n")
        writer.writerow(EVENT_COLUMNS)
        for event in np.flatnonzero(~cold[interactions.events]).tolist():
            item = interactions.item_ids[interactions.events[event]]
            writer.writerow((interactions.user_ids[user[event]], item, int(interactions.timestamps[event])))
    aside.rename(folder)


def last_events(interactions: Interactions, cold: NDArray[np.bool_]) -> dict[str, list[Ask]]:
    """Every user's last event, by what its item is: "added" or "known".

    Only last ones: nothing that a user did afterwards has been trained on. And known ones only of users with three
    known events: of fewer, training holds none back.
    """
    asks: dict[str, list[Ask]] = {"added": [], "known": []}
    for start, end in zip(interactions.offsets[:-1].tolist(), interactions.offsets[1:].tolist(), strict=True):
        *before, target = interactions.events[start:end].tolist()
        history = [interactions.item_ids[item] for item in before if not cold[item]]
        if len(history) >= (1 if cold[target] else 2):
            asks["added" if cold[target] else "known"].append(Ask(history, interactions.item_ids[target]))
    return asks


def trained(work: Path, name: str, preset: str, changes: list[str]) -> Artifact:
    """The artifact of that name, trained where it is not there yet; stage I is that of the first model."""
    out, first = work / name, work / f"{next(iter(_MODELS))}.work"
    if out.exists():
        return Artifact.open(out)
    run = Run(work / "data", out, load_config(preset, changes))
    for part in _SHARED:
        source, target = first / part, run.work / part
        if source.exists() and not target.exists():
            target.parent.mkdir(exist_ok=True)
            aside = target.with_name(f"{target.name}.copying")
            shutil.rmtree(aside, ignore_errors=True)  # of a run that was killed
            (shutil.copytree if source.is_dir() else shutil.copyfile)(source, aside)
            aside.rename(target)
    return run.export()


def add_items(artifact: Artifact, records: list[dict[str, Any]]) -> Catalog:
    """The artifact's catalog with new items behind its own, made from their metadata by the artifact's encoders."""
    encoder = ItemEncoder.open(artifact)
    semantic = TextEncoder.open(artifact).encode([item_text(record) for record in records])
    encoded = encoder.encode(semantic)
    new = encoder.propose(encoded.integrated, lambda tried: find(artifact.trie, tried) >= 0)
    codes = CodeTable(np.concatenate([artifact.codes.tokens, new]), artifact.codes.tokens_per_level)
    items = np.arange(artifact.manifest.item_count, len(codes.tokens), dtype=np.int32)
    insertion = insert(artifact.trie, new, items)
    inputs = catalog_inputs(artifact) | trie_inputs(insertion.trie)
    inputs |= artifact.prefix_output.grown(insertion, items).inputs()
    inputs["item_output"] = np.concatenate([inputs["item_output"], encoded.item_output])
    if "item_input" in inputs:
        inputs["item_input"] = np.concatenate([inputs["item_input"], encoder.item_input(encoded, new)])
    else:
        inputs["item_code"] = codes.tokens
    ids = [*_item_ids(artifact), *(record["item_id"] for record in records)]
    return Catalog({item_id: index for index, item_id in enumerate(ids)}, insertion.trie, inputs)


def untouched(artifact: Artifact) -> Catalog:
    """The catalog as it was trained."""
    ids = {item_id: index for index, item_id in enumerate(_item_ids(artifact))}
    return Catalog(ids, artifact.trie, catalog_inputs(artifact))


def _item_ids(artifact: Artifact) -> list[str]:
    return [artifact.item_ids[index] for index in range(artifact.manifest.item_count)]


def measure(
    artifact: Artifact, name: str, added: list[dict[str, Any]], asks: dict[str, list[Ask]]
) -> list[dict[str, Any]]:
    """One row a beam width: recall@50 of both kinds of events, with the items added and without."""
    catalogs = {"without": untouched(artifact), "with": add_items(artifact, added)}
    rows = []
    for width in artifact.manifest.beam_widths:
        row: dict[str, Any] = {
            "model": name,
            "beam": width,
            "events": {kind: len(asked) for kind, asked in asks.items()},
        }
        for weight, ranked_by in zip((0.0, artifact.manifest.rescore_weight), _RANKED_BY, strict=True):
            for presence, catalog in catalogs.items():
                search = GraphSearch(
                    artifact.cpu_graph_path(width),
                    catalog.inputs,
                    catalog.trie.code_length,
                    artifact.manifest.history_buckets,
                )
                for kind, asked in asks.items():
                    row[f"{kind}, {presence}, {ranked_by}"] = recall(search, catalog, asked, weight)
        rows.append(row)
    return rows


def recall(search: GraphSearch, catalog: Catalog, asks: list[Ask], weight: float) -> float:
    """Recall@50; an item that the catalog does not have is not found."""
    ranks = []
    by_length = sorted(asks, key=lambda ask: len(ask.history))
    for begin in range(0, len(by_length), _ROWS):
        part = by_length[begin : begin + _ROWS]
        targets = np.array([catalog.item_index.get(ask.target, -2) for ask in part], dtype=np.int32)
        rows = []
        for ask, target in zip(part, targets.tolist(), strict=True):
            history = np.array([catalog.item_index[item] for item in ask.history], dtype=np.int32)
            rows.append(search_row(catalog.trie, history, masked_items(history, target)))
        ranks.append(ranks_of_targets(search(rows, weight).item[:, :_K], targets))
    return recall_at(np.concatenate(ranks), _K)


def show(rows: list[dict[str, Any]], title: str) -> None:
    """One line a model and beam width."""
    shown = [
        ("added items", "added, with"),
        ("known items, none added", "known, without"),
        ("known items, some added", "known, with"),
    ]
    table = Table("model", "beam", *(f"{name}: {by}" for name, _ in shown for by in _RANKED_BY), title=title)
    for row in rows:
        cells = [row[f"{key}, {by}"] for _, key in shown for by in _RANKED_BY]
        table.add_row(row["model"], str(row["beam"]), *(f"{cell:.4f}" for cell in cells))
    console = Console(width=max(140, Console().width))
    console.print(table)
    events = rows[0]["events"]
    console.print(
        f"recall@{_K} over the last events of {events['added']} users who took an added item and {events['known']} who "
        "took a known one; without adding, an added item is never found"
    )


if __name__ == "__main__":
    run(main)
