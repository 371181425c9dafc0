"""How long a trie takes to build and to check, and how large it is."""

import time
from collections.abc import Iterator

import numpy as np

from models.trie import CodeTrie

from ..synthetic import random_codes
from .findings import Finding


def trie_findings(items: int, code_length: int = 4, tokens_per_level: int = 256) -> Iterator[Finding]:
    """Builds one trie over random codes."""
    codes = random_codes(items, code_length, tokens_per_level, np.random.default_rng(0))
    started = time.perf_counter()
    trie = CodeTrie.build(codes)
    built = time.perf_counter() - started
    trie.check()
    checked = time.perf_counter() - started - built
    what = f"trie of {items:,} items, {code_length} × {tokens_per_level}"
    yield Finding("trie", f"{what}, built", built, "s", detail=f"checked in {checked:.2f} s")
    yield Finding("trie", f"{what}, a million items", trie.nbytes / items, "MB", 48.0, at_most=True)
