from models.item_text import item_text


def test_the_text_begins_with_what_names_the_item() -> None:
    item = {"item_id": "1", "year": 1995, "genres": ["Animation", "Comedy"], "title": "Toy Story", "empty": None}
    assert item_text(item) == "Toy Story. Animation, Comedy. 1995"


def test_an_item_without_text_is_its_id() -> None:
    assert item_text({"item_id": "B00X"}) == "B00X"
