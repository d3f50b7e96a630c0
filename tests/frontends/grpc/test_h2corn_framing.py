"""Messages within a body that comes in pieces, and their compression."""

from __future__ import annotations

import gzip
import zlib
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from serving.errors import InternalError, MalformedBody, TooLarge
from serving.frontends.grpc.framing import CODINGS, PREFIX_BYTES, Frames, compressed, frame, inflated

LIMIT = 1000


def taken(frames: Frames) -> list[tuple[bool, bytes]]:
    found = []
    while (one := frames.next()) is not None:
        found.append(one)
    return found


@given(
    messages=st.lists(st.tuples(st.booleans(), st.binary(max_size=60)), max_size=8),
    cuts=st.lists(st.integers(0, 600), max_size=12),
    after=st.booleans(),
)
def test_messages_come_whole_whatever_the_pieces(
    messages: list[tuple[bool, bytes]], cuts: list[int], after: bool
) -> None:
    body = b"".join(bytes((packed,)) + len(text).to_bytes(4, "big") + text for packed, text in messages)
    places = sorted({min(cut, len(body)) for cut in cuts} | {0, len(body)})
    frames = Frames(LIMIT)
    got = []
    for begin, end in pairwise(places):
        frames.feed(body[begin:end])
        if not after:
            got += taken(frames)
    got += taken(frames)
    frames.finish()
    assert got == messages
    assert frames.held == 0


def test_a_frame_is_a_flag_a_length_and_the_message() -> None:
    assert frame(b"") == bytes(PREFIX_BYTES)
    assert frame(b"abc") == b"\x00\x00\x00\x00\x03abc"


def test_a_length_over_the_limit_is_refused_before_its_bytes_come() -> None:
    frames = Frames(LIMIT)
    frames.feed(b"\x00" + (LIMIT + 1).to_bytes(4, "big"))
    with pytest.raises(TooLarge, match="1001 bytes; at most 1000"):
        frames.next()


def test_a_message_of_the_limit_is_taken() -> None:
    frames = Frames(LIMIT)
    frames.feed(frame(bytes(LIMIT)))
    assert frames.next() == (False, bytes(LIMIT))


def test_a_flag_that_is_none() -> None:
    frames = Frames(LIMIT)
    frames.feed(b"\x02\x00\x00\x00\x00")
    with pytest.raises(InternalError, match="flag of a message is 2"):
        frames.next()


@pytest.mark.parametrize("cut", range(1, 8))
def test_an_end_in_the_middle(cut: int) -> None:
    frames = Frames(LIMIT)
    frames.feed(frame(b"abc")[:cut])
    assert frames.next() is None
    with pytest.raises(InternalError, match="in the middle of a message"):
        frames.finish()


@pytest.mark.parametrize("coding", CODINGS)
@given(message=st.binary(max_size=LIMIT))
def test_what_was_compressed_is_inflated(coding: str, message: bytes) -> None:
    framed = compressed(coding, message)
    assert framed[0] == 1
    assert int.from_bytes(framed[1:5], "big") == len(framed) - PREFIX_BYTES
    packed = framed[PREFIX_BYTES:]
    assert inflated(coding, packed, LIMIT) == message
    assert (gzip.decompress if coding == "gzip" else zlib.decompress)(packed) == message


@pytest.mark.parametrize("coding", CODINGS)
def test_a_bomb_is_not_inflated(coding: str) -> None:
    packed = compressed(coding, bytes(50_000_000))[PREFIX_BYTES:]
    with pytest.raises(TooLarge, match="exceeds 1000 bytes"):
        inflated(coding, packed, LIMIT)


@pytest.mark.parametrize("coding", CODINGS)
@given(data=st.data())
def test_what_is_not_compressed_is_malformed(coding: str, data: st.DataObject) -> None:
    packed = compressed(coding, b"some text" * 20)[PREFIX_BYTES:]
    broken = data.draw(
        st.one_of(
            st.integers(0, len(packed) - 1).map(lambda cut: packed[:cut]),
            st.binary(min_size=1, max_size=20).map(lambda tail: packed + tail),
        )
    )
    with pytest.raises(MalformedBody, match=coding):
        inflated(coding, broken, LIMIT)
