"""What Redis, replicas and engines say to each other about items that differ from the trained catalog."""

from typing import Any

import msgspec


class ItemRecord(msgspec.Struct, frozen=True, omit_defaults=True):
    """Everything that differs from the trained catalog for one item, as of its last change.

    The record replaces whatever was known of the item before. It belongs to an id and not to a model version: every
    version that knows the id obeys it.
    """

    item_id: str
    revision: int  # catalog revision of the last change
    available: bool = True
    removed: bool = False  # gone for good, until it is added again
    attributes: dict[str, Any] = {}  # over the item's metadata; None takes an attribute away
    item: dict[str, Any] | None = None  # metadata of an item that was added live
    embeddings: dict[str, bytes] = {}  # text encoder → E_S float32 little-endian [D_S], of an added item


class ItemChange(msgspec.Struct, frozen=True):
    """A wish of an operator for one item; what is None stays as it is."""

    item_id: str
    available: bool | None = None
    attributes: dict[str, Any] | None = None  # merged into what is there (RFC 7396, top level)
    remove: bool = False
    item: dict[str, Any] | None = None  # add the item, or replace what was added
    embeddings: dict[str, bytes] = {}
    reset: bool = False  # first forget what was set live; what was added or removed stays so
