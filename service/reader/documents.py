"""Items as JSON documents. Metadata and attributes are JSON already and are copied as they are."""

import json
from collections.abc import Iterable

import msgspec

from service.catalog.items import LiveItems
from service.errors import UnknownItem

_encoder = msgspec.json.Encoder()


def item_document(items: LiveItems, item_id: str) -> bytes:
    """One item: {item_id, available, added, metadata, attributes, code}; raises UnknownItem, for removed ones too."""
    index = int(items.indices([item_id])[0])
    if index < 0 or items.is_removed(index):
        version = items.artifact.manifest.model_version
        raise UnknownItem(f"the model {version} has no item {json.dumps(item_id)}")
    return _encoder.encode(_item(items, index))


def found_document(items: LiveItems, query: str, indices: Iterable[int], total: int | None) -> bytes:
    """Items found: {query, total, items}; `total` is null where not all items were looked at."""
    found = [_item(items, index) for index in indices]
    return _encoder.encode({"query": query, "total": total, "items": found})


def _item(items: LiveItems, index: int) -> dict[str, object]:
    return {
        "item_id": items.item_id(index),
        "available": bool(items.available[index]),
        "added": index >= items.trained,
        "metadata": msgspec.Raw(items.metadata_json(index)),
        "attributes": msgspec.Raw(items.attributes_json(index)),
        "code": items.code(index),
    }
