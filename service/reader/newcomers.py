"""New items and changed attributes, checked before anything is written, and the embeddings of new items."""

import json
from collections.abc import Collection, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any, Final

import numpy as np
from numpy.typing import NDArray

from models.attribute_values import FieldKind, UnfilterableError, read_attribute
from models.errors import NoTextEncoderError
from models.item_text import item_text
from service.catalog.items import LiveItems
from service.errors import BadItem, CatalogFull, FieldError, NoTextEncoder, pointer

if TYPE_CHECKING:
    from models.text_encoder import TextEncoder

GIVEN: Final = "given"  # what embeddings belong to where the artifact names no text encoder
_LONGEST_ID_BYTES: Final = 512
_ITEM_ID: Final = "item_id"


def check_patches(items: LiveItems, item_ids: Sequence[str], attributes: Sequence[bytes | None]) -> list[str]:
    """Ids that are no items.

    Raises BadItem with pointers /items/i/attributes/NAME for attributes that cannot be set.
    """
    kinds = dict(items.fields)
    errors: list[FieldError] = []
    for place, raw in enumerate(attributes):
        patch = {} if raw is None else _object(raw)
        if patch is None:
            errors.append(_wrong("must be a JSON object", "items", place, "attributes"))
            continue
        if _ITEM_ID in patch:
            errors.append(_wrong("an item keeps its id", "items", place, "attributes", _ITEM_ID))
        errors += _wrong_attributes(patch, kinds, items.attributes.refused, "items", place, "attributes")
    _raise(errors)
    known = items.indices(item_ids).tolist()
    return [item_id for item_id, index in zip(item_ids, known, strict=True) if index < 0 or items.is_removed(index)]


class Newcomers:
    """Prepares items to be added to one model."""

    def __init__(self, items: LiveItems) -> None:
        self._items = items
        self._manifest = items.artifact.manifest
        self._encoder: TextEncoder | None = None
        self.encoder_name = self._manifest.text_encoder or GIVEN

    def check(self, raw: Sequence[bytes], embeddings: Sequence[Sequence[float] | None]) -> list[dict[str, Any]]:
        """The items' metadata.

        Raises BadItem with pointers /items/i/item/NAME and /items/i/embedding, CatalogFull where there is no room.
        """
        if not self._manifest.item_encoder:
            raise BadItem(f"the model {self._manifest.model_version} was exported without an item encoder")
        read = [_object(one) for one in raw]
        kinds = dict(self._items.fields)
        errors: list[FieldError] = []
        for place, (item, embedding) in enumerate(zip(read, embeddings, strict=True)):
            errors += self._wrong_item(item, place, kinds)
            errors += self._wrong_embedding(embedding, place)
        _raise(errors)
        checked = [item for item in read if item is not None]
        self._check_room([item[_ITEM_ID] for item in checked])
        return checked

    def embed(self, items: Sequence[dict[str, Any]], embeddings: Sequence[Sequence[float] | None]) -> list[bytes]:
        """float32 little-endian [D_S] of each, from its text where none is given; slow. Raises NoTextEncoder."""
        texts = [item_text(item) for item, given in zip(items, embeddings, strict=True) if given is None]
        encoded = iter(self._encode(texts) if texts else ())
        return [_bytes(next(encoded) if given is None else given) for given in embeddings]

    def _encode(self, texts: list[str]) -> NDArray[np.float32]:
        try:
            if self._encoder is None:
                from models.text_encoder import TextEncoder  # ONNX Runtime, which most readers never need

                self._encoder = TextEncoder.open(self._items.artifact)
        except NoTextEncoderError as error:
            sentence = str(error)
            raise NoTextEncoder(sentence[0].upper() + sentence[1:]) from None
        return self._encoder.encode(texts)

    def _wrong_item(self, item: dict[str, Any] | None, place: int, kinds: dict[str, FieldKind]) -> Iterator[FieldError]:
        if item is None:
            yield _wrong("must be a JSON object", "items", place, "item")
            return
        if fault := _id_fault(item.get(_ITEM_ID)):
            yield _wrong(fault, "items", place, "item", _ITEM_ID)
        yield from _wrong_attributes(item, kinds, self._items.attributes.refused, "items", place, "item")

    def _wrong_embedding(self, embedding: Sequence[float] | None, place: int) -> Iterator[FieldError]:
        if embedding is None:
            return
        width = self._manifest.semantic_width
        if len(embedding) != width:
            yield _wrong(f"has {len(embedding)} numbers, this model takes {width}", "items", place, "embedding")
        elif not np.isfinite(np.frombuffer(_bytes(embedding), dtype="<f4")).all():
            yield _wrong("holds a number that is not finite in float32", "items", place, "embedding")

    def _check_room(self, item_ids: Sequence[str]) -> None:
        """Items that are already there, or were before they were removed, take no more room."""
        fresh = sum(not self._items.has_place(item_id) for item_id in set(item_ids))
        room = self._items.capacity - self._items.count
        if fresh > room:
            raise CatalogFull(
                f"{fresh} items are new to the model {self._manifest.model_version}, which has room for {room} more; "
                "PROREC_SPARE_ITEMS sets how many can be added"
            )


def _object(raw: bytes) -> dict[str, Any] | None:
    try:
        value = json.loads(raw)
    except ValueError:
        return None
    return value if isinstance(value, dict) else None


def _id_fault(item_id: Any) -> str | None:
    if not isinstance(item_id, str) or not item_id:
        return "must be a string that is not empty"
    try:
        length = len(item_id.encode())
    except UnicodeEncodeError:
        return "is not valid Unicode"
    return f"has {length} bytes, at most {_LONGEST_ID_BYTES} are allowed" if length > _LONGEST_ID_BYTES else None


def _wrong_attributes(
    values: Mapping[str, Any], kinds: dict[str, FieldKind], refused: Collection[str], *where: str | int
) -> Iterator[FieldError]:
    """Values whose kind contradicts that of the attribute; a new attribute gets the kind of its first value."""
    for name, value in values.items():
        if name == _ITEM_ID or name in refused:
            continue
        try:
            attribute = read_attribute(value)
        except UnfilterableError as error:
            if name in kinds:
                yield _wrong(f"{name!r} is a {kinds[name]}, and the value {error}", *where, name)
            continue
        if attribute and kinds.setdefault(name, attribute.kind) != attribute.kind:
            yield _wrong(f"{name!r} is a {kinds[name]}, not a {attribute.kind}", *where, name)


def _wrong(detail: str, *where: str | int) -> FieldError:
    return FieldError(pointer=pointer(*where), detail=detail)


def _raise(errors: Sequence[FieldError]) -> None:
    if errors:
        more = f", and {len(errors) - 1} more" if len(errors) > 1 else ""
        raise BadItem(f"{errors[0]['pointer']}: {errors[0]['detail']}{more}", errors)


def _bytes(embedding: Sequence[float] | NDArray[np.float32]) -> bytes:
    with np.errstate(over="ignore"):
        return np.asarray(embedding, dtype="<f4").tobytes()
