"""New items in a model whose text encoder is not the one that their embeddings are of."""

import msgspec

from models.artifact import Artifact
from models.item_text import item_text
from models.text_encoder import TextEncoder
from service.catalog.items import LiveItems
from service.catalog.records import ItemRecord
from service.engine.index import Tables
from service.engine.newcomers import Newcomers

ITEM = {"item_id": "fresh", "title": "a red shoe"}
ELSEWHERE = ItemRecord("fresh", 1, item=ITEM, embeddings={"another-encoder": b"1234"})


def test_an_item_without_an_embedding_of_this_models_encoder_is_read_anew(open_to_new_items: Artifact) -> None:
    artifact = open_to_new_items
    newcomers = Newcomers(artifact, LiveItems(artifact, 4), Tables(artifact, 4))
    vector = TextEncoder.open(artifact).encode([item_text(ITEM)])[0]
    here = msgspec.structs.replace(ELSEWHERE, embeddings={str(artifact.manifest.text_encoder): vector.tobytes()})
    assert newcomers.propose([ELSEWHERE], artifact.trie) == newcomers.propose([here], artifact.trie)
    assert newcomers.propose([ELSEWHERE], artifact.trie)[1] == {}
    assert newcomers.learnable([ELSEWHERE], {"fresh": [0, 0, 0]}) == {"fresh"}
    assert newcomers.learnable([ELSEWHERE], {}) == set()  # nothing is encoded for what cannot be placed yet


def test_every_text_is_told_before_it_is_encoded(open_to_new_items: Artifact) -> None:
    artifact = open_to_new_items
    newcomers = Newcomers(artifact, LiveItems(artifact, 4), Tables(artifact, 4))
    told: list[int] = []
    newcomers.on_text = lambda: told.append(len(newcomers._texts))
    another = msgspec.structs.replace(ELSEWHERE, item_id="other", item=ITEM | {"title": "a blue shoe"})
    for _ in range(2):
        newcomers.propose([ELSEWHERE, another], artifact.trie)
    assert told == [0, 1]


def test_an_item_without_text_or_embedding_is_refused(open_to_new_items: Artifact) -> None:
    artifact = open_to_new_items
    newcomers = Newcomers(artifact, LiveItems(artifact, 4), Tables(artifact, 4))
    codes, refused = newcomers.propose([msgspec.structs.replace(ELSEWHERE, item=None)], artifact.trie)
    assert not codes
    assert "no embedding" in refused["fresh"]
