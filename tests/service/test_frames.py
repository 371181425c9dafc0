import itertools
import struct

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from service.frames import MAX_FRAME_BYTES, Frames


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
