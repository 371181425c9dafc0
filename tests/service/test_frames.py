import itertools
import struct

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from service.errors import BodyTooLarge, from_failure
from service.frames import MAX_FRAME_BYTES, Document, Failure, Frames, Lookup, Reply, pack, pack_reply


@given(
    messages=st.lists(st.binary(max_size=40), max_size=8), places=st.lists(st.integers(0, 400), max_size=12).map(sorted)
)
@settings(max_examples=200, deadline=None)
def test_messages_come_out_as_they_went_in_wherever_the_stream_is_cut(messages: list[bytes], places: list[int]) -> None:
    stream = b"".join(struct.pack("<I", len(message)) + message for message in messages)
    ends = [0, *(place for place in places if place < len(stream)), len(stream)]
    frames, got = Frames(), list[bytes]()
    for begin, end in itertools.pairwise(ends):
        got += frames.cut(stream[begin:end])
    assert got == messages
    assert not frames.incomplete


def test_a_part_of_a_message_is_known_to_be_one() -> None:
    frames = Frames()
    assert list(frames.cut(b"\x02\x00\x00\x00a")) == []
    assert frames.incomplete
    assert list(frames.cut(b"b\x00")) == [b"ab"]
    assert frames.incomplete


def test_a_message_above_the_limit_is_refused_before_it_has_come() -> None:
    with pytest.raises(ValueError, match="above the limit"):
        list(Frames().cut(struct.pack("<I", MAX_FRAME_BYTES + 1)))


def test_a_reply_above_the_limit_becomes_a_failure_and_a_request_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("service.frames.MAX_FRAME_BYTES", 300)
    encoder = msgspec.msgpack.Encoder()
    assert msgspec.msgpack.decode(pack_reply(Document(7, b"x" * 200), encoder)[4:], type=Reply) == Document(
        7, b"x" * 200
    )
    failure = msgspec.msgpack.decode(pack_reply(Document(7, b"x" * 400), encoder)[4:], type=Reply)
    assert isinstance(failure, Failure)
    assert failure.query_id == 7
    error = from_failure(failure.code, failure.message, failure.errors)
    assert (error.code, error.status) == ("bad_request", 422)
    with pytest.raises(BodyTooLarge, match="at most 300"):
        pack(Lookup(7, "x" * 400), encoder)
