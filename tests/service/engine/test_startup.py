import logging

import pytest

from models.artifact import Artifact
from service.engine.startup import assemble

from .conftest import ENGINE_SETTINGS


@pytest.mark.parametrize(("spare_items", "few"), [(50_000, False), (60_000, True)])
def test_the_log_says_how_many_filters_have_room_and_warns_of_few(
    artifact: Artifact, caplog: pytest.LogCaptureFixture, spare_items: int, few: bool
) -> None:
    settings = ENGINE_SETTINGS.model_copy(update={"spare_items": spare_items})
    with caplog.at_level(logging.INFO, logger="service.engine.startup"):
        engine = assemble(artifact, settings)
    (record,) = [record for record in caplog.records if "compiled filters" in record.getMessage()]
    assert record.getMessage().startswith(f"model tiny-1 has room for {engine.slot_count - 1} compiled filters of ")
    assert record.levelno == (logging.WARNING if few else logging.INFO)
    assert ("PROREC_FILTER_CACHE_BYTES" in record.getMessage()) == few
    assert engine.info.filter_slots == engine.slot_count - 1
