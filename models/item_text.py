"""One sentence of an item's metadata: what a text encoder reads, in training and when an item is added."""

from typing import Any

_TITLE_FIRST = ("title", "brand", "categories", "genres")
_NEVER = ("item_id",)
_DEEPEST = 8


def item_text(item: dict[str, Any]) -> str:
    """One sentence of an item: title, brand, categories and genres first, then its other fields by name."""
    names = [name for name in _TITLE_FIRST if name in item]
    names += sorted(name for name in item if name not in _TITLE_FIRST and name not in _NEVER)
    parts = [part for name in names if (part := _flat(item[name]))]
    return ". ".join(parts) if parts else str(item["item_id"])


def _flat(value: Any, depth: int = 0) -> str:
    """Nested values one after the other, down to a depth that no description needs."""
    if isinstance(value, dict):
        value = list(value.values())
    if isinstance(value, list):
        return ", ".join(part for child in value if depth < _DEEPEST and (part := _flat(child, depth + 1)))
    return "" if value is None else str(value)
