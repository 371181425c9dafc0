"""What operators send to change the catalog, and what comes back, as OpenAPI shows it."""

import math
from collections.abc import Iterable
from typing import Annotated, Any, Final, Self

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, model_validator
from pydantic_core import PydanticCustomError

from .body import REQUEST, Small, request_with

_DEEPEST: Final = 32
_LARGEST: Final = 2**63  # what MessagePack, and so what is kept, has room for

ItemId = Annotated[str, Field(min_length=1)]
NewItemId = Annotated[str, Field(min_length=1, max_length=512)]
WaitMs = Annotated[
    int | None,
    Field(ge=1, description="Answer only when this replica recommends by the change; 504 after so many milliseconds."),
]


def storable(value: Any, depth: int = 0) -> None:
    """Raises PydanticCustomError for JSON that cannot be kept: numbers out of range, or nested too deep."""
    if depth > _DEEPEST:
        raise PydanticCustomError("too_deep", "is nested too deep")
    if isinstance(value, dict):
        _all_storable(value.values(), depth)
    elif isinstance(value, list):
        _all_storable(value, depth)
    elif isinstance(value, float) and not math.isfinite(value):
        raise PydanticCustomError("number_range", "holds a number that is not finite")
    elif isinstance(value, int) and not -_LARGEST <= value < _LARGEST:
        raise PydanticCustomError("number_range", "holds an integer of more than 64 bits")


def _all_storable(values: Iterable[Any], depth: int) -> None:
    for value in values:
        storable(value, depth + 1)


def _attributes(value: dict[str, Any]) -> dict[str, Any]:
    storable(value)
    if "item_id" in value:
        raise PydanticCustomError("item_id", "must not hold item_id, which never changes")
    return value


class ItemPatch(Small):
    """What changes about one item; what is left out stays."""

    model_config = ConfigDict(strict=True, extra="forbid", frozen=True)

    item_id: ItemId
    reset: bool = Field(
        False,
        description="First forget what was set live: the model's own attributes count again, and the item is available."
        " An item that was added or removed stays so.",
    )
    available: bool | None = Field(None, description="Whether it may be recommended; histories may hold it anyway.")
    attributes: Annotated[dict[str, Any], AfterValidator(_attributes)] | None = Field(
        None, description="Merged into the item's metadata (RFC 7396, top level): null takes an attribute away."
    )

    @model_validator(mode="after")
    def _says_something(self) -> Self:
        if self.available is None and self.attributes is None and not self.reset:
            raise PydanticCustomError("empty_change", "must have available, attributes, or reset")
        return self


class PatchItems(Small):
    """Changes of several items: all of them, or none."""

    model_config = request_with(
        items=[
            {"item_id": "B000142FVW", "available": False},
            {"item_id": "B001MA0QY2", "attributes": {"price": 19.9, "sale": None}},
        ],
        wait_ms=1000,
    )

    items: list[ItemPatch] = Field(min_length=1, fail_fast=True)
    wait_ms: WaitMs = None


class NewItemMetadata(BaseModel):
    """Any JSON object that names its item; title, text and categories are what its embedding comes from."""

    model_config = ConfigDict(strict=True, extra="allow", frozen=True)

    item_id: NewItemId

    @model_validator(mode="after")
    def _can_be_kept(self) -> Self:
        storable(self.model_extra)
        return self


class NewItem(Small):
    model_config = REQUEST

    item: NewItemMetadata
    embedding: list[float] | None = Field(
        None,
        min_length=1,
        fail_fast=True,
        description="Of the item's text, as in training; left out: the model's encoder makes it.",
    )


class AddItems(Small):
    """New items, or new metadata of items that were added before: all of them, or none."""

    model_config = request_with(
        items=[{"item": {"item_id": "N-1", "title": "Clay mask", "categories": ["Skin Care"]}}], wait_ms=5000
    )

    items: list[NewItem] = Field(min_length=1, fail_fast=True)
    wait_ms: WaitMs = None


class RemoveItems(Small):
    """Items that are gone for good, until they are added again."""

    model_config = request_with(item_ids=["N-1"])

    item_ids: list[ItemId] = Field(min_length=1, fail_fast=True)
    wait_ms: WaitMs = None


class CatalogAnswer(BaseModel):
    """What a change of the catalog came to; every replica follows within moments."""

    catalog_revision: int = Field(description="Answers of this `catalog_revision` or a later one obey the change.")
    changed: int = Field(description="Items that are different from before.")
    unknown: list[str] | None = Field(
        description="Ids that the model that serves does not know; another version may. Null: no model is loaded here."
    )
    unplaced: dict[str, str] = Field(
        description="With `wait_ms`: which of the items the model that serves cannot recommend, and why."
    )


class ChangedItem(BaseModel):
    """What differs from the trained catalogs for one item, in every version."""

    item_id: str
    revision: int = Field(description="`catalog_revision` of its last change.")
    available: bool
    removed: bool
    attributes: dict[str, Any] = Field(description="Set live, over its metadata; null takes one away.")
    item: dict[str, Any] | None = Field(description="Metadata of an item that was added live.")


class ChangedItems(BaseModel):
    """Items in the order of their last changes."""

    catalog_revision: int
    catalog_era: str = Field(description="Another one once Redis has lost the changes; revisions begin anew then.")
    items: list[ChangedItem]
    next: int | None = Field(description="`since` of the next page; null: these are the last.")


CHANGES_EXAMPLE: Final[dict[str, Any]] = {
    "catalog_revision": 8,
    "catalog_era": "5e0f3a1c",
    "items": [
        {
            "item_id": "B001MA0QY2",
            "revision": 7,
            "available": True,
            "removed": False,
            "attributes": {"price": 19.9, "sale": None},
            "item": None,
        },
    ],
    "next": None,
}

CATALOG_EXAMPLE: Final[dict[str, Any]] = {"catalog_revision": 8, "changed": 2, "unknown": [], "unplaced": {}}
