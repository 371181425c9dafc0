"""Tensors that share memory: what is written into the whole is read in the parts, and the other way round."""

import gc

import numpy as np
import onnxruntime as ort

from service.engine.device_memory import Block, Field, view

FIELDS = {"rows": Field(np.int32, (3, 5)), "weight": Field(np.float32, ()), "scores": Field(np.float32, (2, 2, 2))}


def test_what_is_sent_is_in_every_part_and_comes_back() -> None:
    block = Block(FIELDS, "cpu")
    block.host["rows"][...] = np.arange(15).reshape(3, 5)
    block.host["weight"][...] = 0.25
    block.host["scores"][...] = np.linspace(-1, 1, 8, dtype=np.float32).reshape(2, 2, 2)
    block.send()
    fetched = block.fetch()
    for name, field in FIELDS.items():
        part = block.values[name]
        assert (tuple(part.shape()), part.numpy().dtype) == (field.shape, field.dtype)
        np.testing.assert_array_equal(part.numpy(), block.host[name])
        np.testing.assert_array_equal(fetched[name], block.host[name])


def test_what_was_fetched_does_not_change_with_the_next_batch() -> None:
    block = Block(FIELDS, "cpu")
    block.send()
    before = block.fetch()["rows"]
    block.host["rows"][...] = 7
    block.send()
    assert (before == 0).all()


def test_no_part_shares_memory_with_another() -> None:
    block = Block(FIELDS, "cpu")
    block.send()
    block.values["weight"].update_inplace(np.array(9.0, dtype=np.float32))
    assert block.values["weight"].numpy() == 9.0
    assert not block.values["rows"].numpy().any()
    assert not block.values["scores"].numpy().any()
    assert len({value.data_ptr() % 64 for value in block.values.values()}) == 1


def test_a_view_keeps_the_memory_it_lies_in() -> None:
    whole = ort.OrtValue.ortvalue_from_shape_and_type([2, 4], np.int32, "cpu", 0)
    whole.update_inplace(np.arange(8, dtype=np.int32).reshape(2, 4))
    row = view(whole, 16, np.dtype(np.int32), (4,))
    assert whole.shape() == [2, 4]
    del whole
    gc.collect()
    np.testing.assert_array_equal(row.numpy(), [4, 5, 6, 7])
