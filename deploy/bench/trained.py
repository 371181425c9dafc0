"""Measured in one run on this machine: our search against Hugging Face `generate`, and building the trie.

    python -m deploy.bench trained --artifact artifacts/movielens-100k-1

The opponent is what most generative recommenders run: a T5 with 4 + 4 layers (d 128, 6 heads of 64, FFN 1024, as in
TIGER), `prefix_allowed_tokens_fn` over a trie of the same codes, same beam width, same history length. Its weights
are random: only its time is measured. Calls are interleaved, ratios are taken pair by pair, medians are printed.
"""

import platform
import statistics
import time
from collections.abc import Callable
from importlib.metadata import version
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import torch
import typer

from models.artifact import Artifact
from models.codes import CodeTable
from models.graph import SearchRow, bucket_for
from models.trie import CodeTrie
from service.engine.search import GraphSearch, Shape

_BEAMS = 20
_HISTORY = 20
_CALLS_PER_ROUND = 20
_SPECIAL_TOKENS = 3


def bench(
    artifact: Annotated[Path, typer.Option(help="Trained artifact to search with.")] = Path(
        "artifacts/movielens-100k-1"
    ),
    rounds: Annotated[int, typer.Option(help="Interleaved rounds.")] = 9,
    threads: Annotated[int, typer.Option(help="Threads for both.")] = 2,
) -> None:
    """Prints a line for every figure."""
    torch.set_num_threads(threads)
    print(f"{platform.processor() or platform.machine()}, {threads} threads, torch {version('torch')}, "
          f"transformers {version('transformers')}, onnxruntime-gpu {version('onnxruntime-gpu')}")  # fmt: skip
    trained = Artifact.open(artifact)
    _against_generate(trained, rounds, threads)
    _random_histories(trained, threads)
    for items in (1_000_000, 10_000_000):
        _build_trie(items)


def _against_generate(artifact: Artifact, rounds: int, threads: int) -> None:
    ours, theirs = _our_call(artifact, threads), _generate_call(artifact.codes)
    ours(), theirs()
    pairs = [(_median_of(ours, _CALLS_PER_ROUND), _median_of(theirs, 1)) for _ in range(rounds)]
    our_ms, their_ms = (1e3 * statistics.median(column) for column in zip(*pairs, strict=True))
    ratio = statistics.median(b / a for a, b in pairs)
    config = artifact.manifest.config
    print(f"catalog of {artifact.manifest.item_count} items, codes {config.code_length} × {config.tokens_per_level}, "
          f"beam {_BEAMS}, history {_HISTORY}, batch 1")  # fmt: skip
    print(f"  this engine, {config.generator}: {our_ms:.2f} ms")
    print(f"  T5 4+4 generate + prefix_allowed_tokens_fn: {their_ms:.0f} ms")
    print(f"  ratio, median of {rounds} pairs: {ratio:.0f} × (lowest {min(b / a for a, b in pairs):.0f} ×)")


def _random_histories(artifact: Artifact, threads: int, count: int = 10_000) -> None:
    """Counts what must not happen, over histories of 1 to 100 random items, at the default beam width."""
    search, trie, rng = GraphSearch(artifact, "cpu", threads), artifact.trie, np.random.default_rng(1)
    manifest = artifact.manifest
    invalid = double = seen = short = 0
    for _ in range(0, count, 50):
        histories = [rng.choice(manifest.item_count, rng.integers(1, 101), replace=False) for _ in range(50)]
        rows = [SearchRow(h.astype(np.int32), trie.dead_states(trie.item_leaf[h])) for h in histories]
        found = search.run(rows, Shape(manifest.default_beam_width, manifest.history_buckets[-1], dead=512)).item
        for history, items in zip(histories, found, strict=True):
            invalid += int(((items < -1) | (items >= manifest.item_count)).sum())
            double += len(items) - len(np.unique(items))
            seen += int(np.isin(items, history).sum())
            short += int((items == -1).sum())
    print(f"{count:,} random histories, beam {manifest.default_beam_width}: {invalid} invalid codes, "
          f"{double} double items, {seen} items of the history, {short} missing")  # fmt: skip


def _median_of(call: Callable[[], None], times: int) -> float:
    seconds = []
    for _ in range(times):
        started = time.perf_counter()
        call()
        seconds.append(time.perf_counter() - started)
    return statistics.median(seconds)


def _our_call(artifact: Artifact, threads: int) -> Callable[[], None]:
    search = GraphSearch(artifact, "cpu", threads)
    history = np.random.default_rng(0).choice(artifact.manifest.item_count, _HISTORY, replace=False).astype(np.int32)
    row = SearchRow(history, artifact.trie.dead_states(artifact.trie.item_leaf[history]))
    bucket = bucket_for(len(history), artifact.manifest.history_buckets)

    def call() -> None:
        search.run([row], Shape(_BEAMS, bucket))

    return call


def _generate_call(codes: CodeTable) -> Callable[[], None]:
    """One `generate` of a random T5 over the same codes; token t of level l is word 3 + l · V + t."""
    from transformers import T5Config, T5ForConditionalGeneration

    words = codes.tokens + _SPECIAL_TOKENS + np.arange(codes.code_length) * codes.tokens_per_level
    allowed = _prefix_table(words.tolist())
    vocabulary = _SPECIAL_TOKENS + codes.code_length * codes.tokens_per_level
    torch.manual_seed(0)
    config = T5Config(
        vocab_size=vocabulary, d_model=128, d_kv=64, d_ff=1024, num_layers=4, num_decoder_layers=4, num_heads=6,
        decoder_start_token_id=0, pad_token_id=0, eos_token_id=1,
    )  # fmt: skip
    model: Any = T5ForConditionalGeneration(config).eval()
    inputs = torch.from_numpy(words[:_HISTORY].reshape(1, -1)).long()

    def call() -> None:
        with torch.no_grad():
            model.generate(
                inputs,
                attention_mask=torch.ones_like(inputs),
                num_beams=_BEAMS,
                num_return_sequences=_BEAMS,
                max_new_tokens=codes.code_length,
                prefix_allowed_tokens_fn=lambda _batch, prefix: allowed[tuple(prefix.tolist()[1:])],
            )

    return call


def _prefix_table(words: list[list[int]]) -> dict[tuple[int, ...], list[int]]:
    table: dict[tuple[int, ...], dict[int, None]] = {}
    for code in words:
        for level, word in enumerate(code):
            table.setdefault(tuple(code[:level]), {})[word] = None
        table.setdefault(tuple(code), {})[1] = None
    return {prefix: list(children) for prefix, children in table.items()}


def _build_trie(items: int) -> None:
    codes = CodeTable(_distinct_codes(items), 256)
    started = time.perf_counter()
    trie = CodeTrie.build(codes)
    built = time.perf_counter() - started
    trie.check()
    checked = time.perf_counter() - started - built
    print(f"trie of {items:,} items, 4 × 256: built in {built:.2f} s, checked in {checked:.2f} s, "
          f"{trie.nbytes / items * 1e6 / 2**20:.1f} MiB a million items")  # fmt: skip


def _distinct_codes(items: int) -> np.ndarray[Any, np.dtype[np.int32]]:
    rng = np.random.default_rng(0)
    flat = np.unique(rng.integers(0, 2**32, items + items // 100, dtype=np.uint64))
    flat = rng.permutation(flat)[:items]
    return np.stack([(flat >> np.uint64(shift)) & np.uint64(255) for shift in (24, 16, 8, 0)], axis=1).astype(np.int32)
