"""What the reader process says of items and codes, as OpenAPI shows it."""

from typing import Any, Final

from pydantic import BaseModel, ConfigDict, Field, JsonValue

_ITEM: Final[dict[str, JsonValue]] = {
    "item_id": "B000142FVW",
    "available": True,
    "added": False,
    "metadata": {"item_id": "B000142FVW", "title": "Hydrating mask", "categories": ["Skin Care"]},
    "attributes": {"categories": ["Skin Care"]},
    "code": [16, 3, 37],
}
_TRIE: Final[dict[str, JsonValue]] = {
    "prefix": [16, 3],
    "level": 2,
    "item_count": 3,
    "children": [
        {"token": 5, "prefix": [16, 3, 5], "item_count": 1, "titles": ["Clay mask"]},
        {"token": 37, "prefix": [16, 3, 37], "item_count": 2, "titles": ["Hydrating mask", "Sheet mask"]},
    ],
    "truncated": False,
}


class ItemAnswer(BaseModel):
    """One item of the model that serves, as the catalog is now."""

    model_config = ConfigDict(json_schema_extra={"example": _ITEM})

    item_id: str
    available: bool = Field(description="Whether it may be recommended.")
    added: bool = Field(description="Whether it was added after the model was trained.")
    metadata: dict[str, Any]
    attributes: dict[str, Any] = Field(description="What filters see: a list of strings stays one, each string once.")
    code: list[int]


class ItemsAnswer(BaseModel):
    """Items found."""

    model_config = ConfigDict(
        json_schema_extra={"example": {"query": "mask", "total": 1, "items": [_ITEM]}},
    )

    query: str
    total: int | None = Field(description="How many there are; null where not all items were looked at.")
    items: list[ItemAnswer]


class TrieChild(BaseModel):
    token: int
    prefix: list[int]
    item_count: int
    titles: list[str] = Field(description="Of some of its items.")


class TrieAnswer(BaseModel):
    """What may follow a prefix."""

    model_config = ConfigDict(json_schema_extra={"example": _TRIE})

    prefix: list[int]
    level: int = Field(description="How many tokens the prefix has.")
    item_count: int = Field(description="Items whose codes begin like that.")
    children: list[TrieChild] = Field(description="By token; a whole code has none.")
    truncated: bool = Field(description="Whether there are more than `limit`.")
