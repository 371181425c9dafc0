"""Items that were added after training: from their records to rows of the item tables, and to codes that are free."""

from collections.abc import Callable, Mapping, Sequence
from functools import cached_property
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from models.artifact import Artifact
from models.free_codes import Taken
from models.insertion import find
from models.item_encoder import ItemEncoder
from models.item_text import item_text
from models.text_encoder import TextEncoder
from models.trie import CodeTrie
from service.catalog.items import AddedItem, LiveItems
from service.catalog.records import ItemRecord

from .index import Tables

Codes = dict[str, list[int]]

_FLOAT_BYTES: Final = 4


class RefusedItem(Exception):  # noqa: N818
    """An item that can have no place in this model; the message is one sentence for the operator."""


class Newcomers:
    """What one model can make of new items. Belongs to the catalog thread."""

    def __init__(self, artifact: Artifact, items: LiveItems, tables: Tables) -> None:
        self._artifact = artifact
        self._manifest = artifact.manifest
        self._texts: dict[
            str, NDArray[np.float32]
        ] = {}  # embeddings made here, between the proposal of a code and its use
        self._items = items
        self._tables = tables
        self._encoder = ItemEncoder.open(artifact) if artifact.manifest.item_encoder else None
        self.on_text: Callable[[], None] = _nothing  # a text is about to be encoded; thousands may be in one change

    def acceptable(self, codes: Mapping[str, Sequence[int]], trie: CodeTrie) -> Codes:
        """Those of `codes` that can be put into the trie: well formed and nobody else's.

        A code may also be the item's own already: it was removed and comes back.
        """
        formed: dict[tuple[int, ...], str] = {}
        for item_id, code in codes.items():
            if self._is_code(code):
                formed.setdefault(tuple(code), item_id)
        if not formed:
            return {}
        leaves = find(trie, np.array(list(formed), dtype=np.int32)).tolist()
        return {
            item_id: list(code)
            for (code, item_id), leaf in zip(formed.items(), leaves, strict=True)
            if leaf < 0 or self._items.item_id(int(trie.leaf_item[leaf])) == item_id
        }

    def learnable(self, records: Sequence[ItemRecord], codes: Mapping[str, Sequence[int]]) -> set[str]:
        """Ids of those whose embedding this model's item encoder takes. Texts are read only of items with a code."""
        wanted = self._manifest.text_encoder

        def asked(record: ItemRecord) -> bool:
            given = bool(record.embeddings) if wanted is None else wanted in record.embeddings
            return given or record.item_id in codes

        return set(self._encoded([record for record in records if asked(record)], {}))

    def learn(self, added: Sequence[AddedItem]) -> Callable[[], None]:
        """Encodes items that are `learnable`; what is returned writes their rows into the tables."""
        if not added or self._encoder is None:
            return _nothing
        encoded = self._encoder.encode(np.stack([self._embedding(item.record) for item in added]))
        self._texts.clear()
        codes = np.array([item.code for item in added], dtype=np.int32)
        item_input = self._encoder.item_input(encoded, codes)
        rows = np.array([item.index for item in added])

        def write() -> None:
            self._tables.codes[rows] = codes
            self._tables.item_output[rows] = encoded.item_output
            if self._tables.item_input is not None:
                self._tables.item_input[rows] = item_input

        return write

    def propose(
        self, records: Sequence[ItemRecord], trie: CodeTrie, taken: Sequence[Sequence[int]] = ()
    ) -> tuple[Codes, dict[str, str]]:
        """(a free code for each item that is new, and its own for one that is not; item id → why it can have none)

        `taken` are codes that are not free although no leaf has them.
        """
        codes: Codes = {}
        refused: dict[str, str] = {}
        fresh: list[ItemRecord] = []
        for record in records:
            known = int(self._items.indices([record.item_id])[0])
            if known >= 0:
                codes[record.item_id] = list(self._items.code(known))
            else:
                fresh.append(record)
        wanted = self._encoded(fresh, refused)
        for item_id in list(wanted)[self._items.capacity - self._items.count :]:
            del wanted[item_id]
            refused[item_id] = f"this model has no room for more items (PROREC_SPARE_ITEMS={self._room})"
        self._propose(wanted, _taken(trie, taken), codes, refused)
        return codes, refused

    def _encoded(self, records: Sequence[ItemRecord], refused: dict[str, str]) -> dict[str, NDArray[np.float32]]:
        """item id → what its code is made from; why others have none is added to `refused`."""
        embeddings: dict[str, NDArray[np.float32]] = {}
        for record in records:
            try:
                embeddings[record.item_id] = self._embedding(record)
            except RefusedItem as error:
                refused[record.item_id] = str(error)
        if not embeddings or self._encoder is None:
            return {}
        encoded = self._encoder.encode(np.stack(list(embeddings.values())))
        refused |= {
            item_id: "the item's embedding holds numbers that are too large for this model"
            for item_id, finite in zip(embeddings, encoded.finite.tolist(), strict=True)
            if not finite
        }
        return {
            item_id: row for item_id, row in zip(embeddings, encoded.integrated, strict=True) if item_id not in refused
        }

    def _propose(
        self, wanted: Mapping[str, NDArray[np.float32]], taken: Taken, codes: Codes, refused: dict[str, str]
    ) -> None:
        if not wanted or self._encoder is None:
            return
        found = self._encoder.propose(np.stack(list(wanted.values())), taken).tolist()
        placed = {item_id: code for item_id, code in zip(wanted, found, strict=True) if self._is_code(code)}
        codes |= placed
        config = self._manifest.config
        full = f"all {config.tokens_per_level}^{config.code_length} codes belong to items already"
        refused |= {item_id: full for item_id in wanted if item_id not in placed}

    @property
    def _room(self) -> int:
        return self._items.capacity - self._items.trained

    def _is_code(self, code: Sequence[int]) -> bool:
        config = self._manifest.config
        return len(code) == config.code_length and all(0 <= token < config.tokens_per_level for token in code)

    def _embedding(self, record: ItemRecord) -> NDArray[np.float32]:
        """float32 [D_S]; raises RefusedItem."""
        version = self._manifest.model_version
        if self._encoder is None:
            raise RefusedItem(f"model {version} was exported without an item encoder, so nothing can be added to it")
        wanted = self._manifest.text_encoder
        # A model without a text encoder takes what clients give.
        data = next(iter(record.embeddings.values()), None) if wanted is None else record.embeddings.get(wanted)
        width = self._manifest.semantic_width
        if data is None and wanted is not None and record.item is not None:
            return self._of_text(record.item)  # it was added while a model with another text encoder served
        if data is None:
            raise RefusedItem(f"the item has no embedding by {wanted or 'a client'}, which model {version} takes")
        if len(data) != width * _FLOAT_BYTES:
            raise RefusedItem(
                f"the item's embedding has {len(data) // _FLOAT_BYTES} numbers, model {version} takes {width}"
            )
        embedding = np.frombuffer(data, dtype="<f4").astype(np.float32)
        if not np.isfinite(embedding).all():
            raise RefusedItem("the item's embedding holds a number that is not finite")
        return embedding

    def _of_text(self, item: dict[str, Any]) -> NDArray[np.float32]:
        """float32 [D_S]; each text is encoded once until its item is learned."""
        text = item_text(item)
        if text not in self._texts:
            self.on_text()
            try:
                self._texts[text] = self._text_encoder.encode([text])[0]
            except Exception as error:  # the tokenizer's and the runtime's own errors share no base
                raise RefusedItem(f"the item's text could not be encoded: {error}") from None
        return self._texts[text]

    @cached_property
    def _text_encoder(self) -> TextEncoder:
        return TextEncoder.open(self._artifact)


def _taken(trie: CodeTrie, others: Sequence[Sequence[int]]) -> Taken:
    """Codes that are in the trie or among the others."""
    held = set(map(tuple, others))

    def taken(tried: NDArray[np.int32]) -> NDArray[np.bool_]:
        elsewhere = [tuple(code) in held for code in tried.tolist()] if held else False
        return np.asarray((find(trie, tried) >= 0) | np.array(elsewhere, dtype=np.bool_))

    return taken


def _nothing() -> None:
    pass
