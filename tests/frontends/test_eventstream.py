"""Event-stream framing, read back by botocore's own parser."""

from __future__ import annotations

import struct
import zlib
from itertools import pairwise
from typing import Any

import orjson
import pytest
from botocore.eventstream import ChecksumMismatch, EventStreamBuffer
from hypothesis import given
from hypothesis import strategies as st

from serving.errors import DeadlineExceeded, InternalError, ModelFailure, ServingError
from serving.frontends.http import eventstream

TEXT = st.text(min_size=1, max_size=40)


def read(data: bytes, cuts: list[int] | None = None) -> list[Any]:
    """The messages in `data`, given to the parser in pieces cut at those places."""
    buffer = EventStreamBuffer()
    found = []
    edges = [0, *sorted({cut % (len(data) + 1) for cut in cuts or []}), len(data)]
    for low, high in pairwise(edges):
        buffer.add_data(data[low:high])
        found += list(buffer)
    return found


@given(
    headers=st.dictionaries(TEXT.filter(lambda text: len(text.encode()) < 256), st.text(max_size=500), max_size=8),
    payload=st.binary(max_size=2000),
)
def test_any_message_is_read_back(headers: dict[str, str], payload: bytes) -> None:
    (found,) = read(eventstream.message(headers, payload))
    assert found.headers == headers
    assert found.payload == payload


@given(parts=st.lists(st.binary(max_size=300), max_size=20), cuts=st.lists(st.integers(0, 10_000), max_size=10))
def test_parts_joined_and_cut_anywhere_are_read_back(parts: list[bytes], cuts: list[int]) -> None:
    found = read(b"".join(map(eventstream.part, parts)), cuts)
    assert [message.payload for message in found] == [part for part in parts if part]
    assert all(message.headers[":event-type"] == "PayloadPart" for message in found)


@given(size=st.integers(0, 3 * eventstream.MOST_PAYLOAD + 2))
def test_a_long_part_is_split_and_loses_nothing(size: int) -> None:
    body = zlib.compress(bytes(1)) * (size // 9) + bytes(size % 9)
    found = [message.payload for message in read(eventstream.part(body))]
    assert b"".join(found) == body
    assert all(0 < len(piece) <= eventstream.MOST_PAYLOAD for piece in found)
    assert len(found) == -(-len(body) // eventstream.MOST_PAYLOAD)


@given(body=st.binary(min_size=1, max_size=200), at=st.integers(0, 10_000), bit=st.integers(0, 7))
def test_a_flipped_bit_is_found(body: bytes, at: int, bit: int) -> None:
    data = bytearray(eventstream.part(body))
    # A changed length may only make the parser wait for more; everything else it must refuse.
    data[8 + at % (len(data) - 8)] ^= 1 << bit
    with pytest.raises(ChecksumMismatch):
        read(bytes(data))


def test_the_layout_to_the_byte() -> None:
    data = eventstream.message({"a": "b"}, b"xyz")
    headers = b"\x01a\x07\x00\x01b"
    prelude = struct.pack(">II", 16 + len(headers) + 3, len(headers))
    start = prelude + struct.pack(">I", zlib.crc32(prelude)) + headers + b"xyz"
    assert data == start + struct.pack(">I", zlib.crc32(start))


@pytest.mark.parametrize(
    ("error", "kind", "payload"),
    [
        (DeadlineExceeded("late"), "ModelStreamError", {"Message": "late", "ErrorCode": "ModelInvocationTimeExceeded"}),
        (ModelFailure("bad"), "ModelStreamError", {"Message": "bad", "ErrorCode": "StreamBroken"}),
        (InternalError("ours"), "InternalStreamFailure", {"Message": "ours"}),
    ],
)
def test_faults_are_modelled_exceptions(error: ServingError, kind: str, payload: dict[str, str]) -> None:
    (found,) = read(eventstream.fault(error))
    assert found.headers == {
        ":message-type": "exception",
        ":exception-type": kind,
        ":content-type": "application/json",
    }
    assert orjson.loads(found.payload) == payload
    assert found.to_response_dict()["status_code"] == 400
