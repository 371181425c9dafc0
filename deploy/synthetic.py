"""An artifact of any size: random codes, an untrained network, and attributes to filter by.

    python -m deploy.synthetic var/ten-million --items 10000000 --width 128

shows what a catalog of that size costs before there is a model of it: publish it, serve it, load it.

Everything is built in columns, so that ten million items need no Python object each. Items are called 00000000,
00000001, …; they have a `genre` (keyword, 20 values), a `shelf` (keyword, one for every 10 items), a `price` (number)
and `new` (boolean, every tenth).
"""

from hashlib import blake2b
from pathlib import Path
from typing import Annotated

import numpy as np
import torch
import typer
from numpy.typing import NDArray

from models.artifact import Artifact, ArtifactWriter
from models.attributes import Attributes, Field
from models.codes import CodeTable
from models.config import ModelConfig
from models.graph import trie_inputs
from models.item_ids import ItemIds
from models.network import Generator, build_generator
from models.prefix_output import PrefixOutput
from models.trie import CodeTrie
from training.export import export_graphs

from .commands import run

GENRES = 20
SHELF_ITEMS = 10
_DIGITS = 8
_TRACED_ITEMS = 100


def synthetic(
    target: Annotated[Path, typer.Argument(metavar="DIR", help="Artifact to be written; its name is the version.")],
    items: Annotated[int, typer.Option(min=1, max=10**_DIGITS, help="Items of the catalog.")] = 1_000_000,
    width: Annotated[int, typer.Option(min=2, help="D of the network, and so of two rows of floats an item.")] = 128,
    beams: Annotated[list[int], typer.Option(min=1, help="Beam widths; the first is the default.")] = [50],  # noqa: B006
    seed: Annotated[int, typer.Option(min=0, help="Of codes and weights.")] = 0,
) -> None:
    """Writes an artifact that can be served, and recommends anything."""
    if target.exists():
        raise typer.BadParameter(f"{target} is there already", param_hint="DIR")
    if width % 2:
        raise typer.BadParameter("must be even, as two heads share it", param_hint="--width")
    write_synthetic(target, items, width=width, beam_widths=tuple(beams), seed=seed)


def write_synthetic(
    target: Path,
    items: int,
    *,
    code_length: int = 4,
    tokens_per_level: int = 256,
    width: int = 64,
    beam_widths: tuple[int, ...] = (20,),
    history_length: int = 50,
    seed: int = 0,
) -> Artifact:
    """Writes the folder `target`, whose name is the model version; a temporal network of one size in all but these."""
    config = ModelConfig(
        code_length=code_length,
        tokens_per_level=tokens_per_level,
        width=width,
        heads=2,
        feed_forward=4 * width,
        history_length=history_length,
        dropout=0.0,
    )
    buckets = tuple(sorted({min(20, history_length), history_length}))
    network = untrained_network(config, seed)
    return write_untrained(target, items, network, beam_widths=beam_widths, history_buckets=buckets, seed=seed)


def untrained_network(config: ModelConfig, seed: int = 0, spread: float = 1.0) -> Generator:
    """A network of freshly drawn weights; output vectors of tokens, and so all logits, are multiplied by `spread`."""
    torch.manual_seed(seed)
    network = build_generator(config).eval()
    with torch.no_grad():
        network.token_output.mul_(spread)
    return network


def write_untrained(
    target: Path,
    items: int,
    network: Generator,
    *,
    beam_widths: tuple[int, ...],
    history_buckets: tuple[int, ...],
    seed: int = 0,
) -> Artifact:
    """Writes an artifact of this network and of random items into the folder `target`."""
    config = network.config
    rng = np.random.default_rng(seed)
    codes = random_codes(items, config.code_length, config.tokens_per_level, rng)
    with ArtifactWriter(target) as writer:
        _write_catalog(writer, codes)
        tables = [rng.standard_normal((items, config.width), dtype=np.float32) for _ in range(2)]
        for name, table in zip(("item_input", "item_output"), tables, strict=True):
            writer.array(name, table)
        writer.prefix_output(PrefixOutput.of_first_items(CodeTrie.build(codes), config.width))
        writer.array("popularity", rng.permutation(items).astype(np.int32))
        _export(writer.folder, network, CodeTable(codes.tokens[:_TRACED_ITEMS], codes.tokens_per_level), beam_widths)
        writer.golden([])
        return writer.commit(
            config=config,
            item_count=items,
            beam_widths=beam_widths,
            default_beam_width=beam_widths[0],
            history_buckets=history_buckets,
            rescore_weight=0.0,
            dataset="synthetic",
            training_fingerprint="0" * 64,
            metrics={},
            tools={},
        )


def random_codes(items: int, code_length: int, tokens_per_level: int, rng: np.random.Generator) -> CodeTable:
    """Different codes, drawn evenly."""
    packed = np.empty(0, dtype=np.int64)
    while packed.size < items:
        drawn = rng.integers(0, tokens_per_level**code_length, items + items // 8 + 16)
        packed = np.unique(np.concatenate([packed, drawn]))
    packed = rng.permutation(packed)[:items]
    powers = tokens_per_level ** np.arange(code_length - 1, -1, -1, dtype=np.int64)
    return CodeTable((packed[:, None] // powers % tokens_per_level).astype(np.int32), tokens_per_level)


def _write_catalog(writer: ArtifactWriter, codes: CodeTable) -> None:
    items = codes.item_count
    writer.items(codes, _ids(_numbered(items)))
    writer.array("metadata_text", np.tile(np.frombuffer(b"{}", dtype=np.uint8), items))
    writer.array("metadata_bounds", np.arange(items + 1, dtype=np.int64) * 2)
    _attributes(items).write(writer)


def _numbered(count: int) -> NDArray[np.uint8]:
    """Decimal digits of 0 … count - 1, uint8 [count, 8]."""
    powers = 10 ** np.arange(_DIGITS - 1, -1, -1)
    return (np.arange(count)[:, None] // powers % 10 + ord("0")).astype(np.uint8)


def _ids(rows: NDArray[np.uint8]) -> ItemIds:
    """Ids of one length, as `ItemIds.build` has them."""
    data, width = rows.tobytes(), rows.shape[1]
    digests = b"".join(blake2b(data[at : at + width], digest_size=8).digest() for at in range(0, len(data), width))
    hashes = np.frombuffer(digests, dtype="<u8").astype(np.uint64)
    order = np.argsort(hashes)
    bounds = np.arange(len(rows) + 1, dtype=np.int64) * width
    return ItemIds(rows.ravel(), bounds, hashes[order], order.astype(np.int32))


def _attributes(items: int) -> Attributes:
    numbers = np.arange(items, dtype=np.float64) * 7919 % 1000
    shelves = -(-items // SHELF_ITEMS)
    keys = [f"0\0genre-{number:02}" for number in range(GENRES)]
    keys += [f"{GENRES}\0shelf-{number}" for number in range(shelves)]
    genre = np.argsort(np.arange(items) % GENRES, kind="stable")
    sizes = np.concatenate([np.bincount(np.arange(items) % GENRES, minlength=GENRES), _shelf_sizes(items, shelves)])
    return Attributes(
        item_count=items,
        schema=(
            Field("genre", "keyword", 0, items),
            Field("new", "boolean", 0, items),
            Field("price", "number", 0, items),
            Field("shelf", "keyword", GENRES, items),
        ),
        refused={},
        keys=ItemIds.build(keys),
        posting_bounds=np.concatenate([[0], np.cumsum(sizes)]).astype(np.int64),
        posting_item=np.concatenate([genre, np.arange(items)]).astype(np.int32),
        numbers=numbers[None],
        number_order=np.argsort(numbers)[None].astype(np.int32),
        booleans=(np.arange(items) % 10 == 0)[None].astype(np.int8),
    )


def _shelf_sizes(items: int, shelves: int) -> NDArray[np.int64]:
    sizes = np.full(shelves, SHELF_ITEMS, dtype=np.int64)
    sizes[-1] = items - SHELF_ITEMS * (shelves - 1)
    return sizes


def _export(folder: Path, network: Generator, codes: CodeTable, beam_widths: tuple[int, ...]) -> None:
    """The graph knows nothing of the catalog's size, so it is traced with a small one."""
    table = np.zeros((codes.item_count, network.config.width), dtype=np.float32)
    tables = {"item_input": table, "item_output": table, "item_code": codes.tokens}
    trie = CodeTrie.build(codes)
    prefixes = PrefixOutput.of_first_items(trie, network.config.width)
    export_graphs(network, trie_inputs(trie) | prefixes.inputs() | tables, folder, beam_widths)


if __name__ == "__main__":
    run(synthetic)
