"""What the reader process says of items and codes, as OpenAPI shows it."""

from typing import Any, Final

from pydantic import BaseModel, ConfigDict, Field, JsonValue

_ITEM: Final[dict[str, JsonValue]] = {
    "item_id": "B000142FVW",
    "available": True,
    "code": [16, 3, 37],
    "metadata": {"item_id": "B000142FVW", "title": "Hydrating mask", "categories": ["Skin Care"]},
    "attributes": {"categories": ["Skin Care"]},
}


class ItemAnswer(BaseModel):
    """One item of the model that serves, as the catalog is now."""

    model_config = ConfigDict(extra="allow", json_schema_extra={"example": _ITEM})

    item_id: str
    available: bool = Field(description="Whether it may be recommended.")
    code: list[int]
    metadata: dict[str, Any]
    attributes: dict[str, Any] = Field(description="What filters see.")


class ItemsAnswer(BaseModel):
    """Items found."""

    model_config = ConfigDict(extra="allow", json_schema_extra={"example": {"items": [_ITEM], "total": 1}})

    items: list[ItemAnswer]


class TrieAnswer(BaseModel):
    """What may follow a prefix."""

    model_config = ConfigDict(
        extra="allow",
        json_schema_extra={
            "example": {
                "prefix": [16, 3],
                "items": 41,
                "children": [{"token": 37, "items": 2}, {"token": 5, "items": 1}],
            }
        },
    )

    prefix: list[int]
