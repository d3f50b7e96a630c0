"""The wire format of protobuf messages, for those whose fields are read and written by hand.

Numbers of fields are those below 16, so that a tag is one byte. Source: Protocol Buffers, encoding.
"""

from __future__ import annotations

from typing import Final

from serving.codecs.base import Buffer
from serving.errors import MalformedBody

LENGTH_DELIMITED: Final = 2
_VARINT, _FIXED64, _FIXED32 = 0, 1, 5
_MOST_VARINT: Final = 10
_MOST_TAG: Final = 2**32
_MOST_LENGTH: Final = 2**31
_TAG_VARINT: Final = 5
"""Bytes that a tag takes at most, which has 32 bits; a number may be written longer than it has to be."""


def read_field(body: Buffer, at: int) -> tuple[int, int, int]:
    """The tag of the field at a place, and where its content begins and ends. Raises `MalformedBody`, for groups too.

    The end may lie behind the body's where the content's length says so.
    """
    tag, start = _read_varint(body, at, _TAG_VARINT)
    wire = tag & 7
    if tag >= _MOST_TAG or tag < 8:
        raise MalformedBody(f"the message has the tag {tag} at byte {at}, which no field has")
    if wire == LENGTH_DELIMITED:
        size, start = _read_varint(body, start, _MOST_VARINT)
        if size >= _MOST_LENGTH:
            raise MalformedBody(f"the message has a field of {size} bytes at byte {at}; protobuf has none above 2 GiB")
        return tag, start, start + size
    if wire == _VARINT:
        value, stop = _read_varint(body, start, _MOST_VARINT)
        if value >> 64:
            raise MalformedBody(f"the message has a number at byte {start} that takes more than 64 bits")
        return tag, start, stop
    if wire in {_FIXED64, _FIXED32}:
        return tag, start, start + (8 if wire == _FIXED64 else 4)
    raise MalformedBody(f"the message has a field of wire type {wire} at byte {at}, which is a group or nothing known")


def cut_off(at: int) -> MalformedBody:
    """The error for a field at a place that the end of the message cuts off."""
    return MalformedBody(f"the message is cut off in the field at byte {at}")


def _read_varint(body: Buffer, at: int, most: int) -> tuple[int, int]:
    found = shift = 0
    for place in range(at, min(at + most, len(body))):
        byte = body[place]
        found |= (byte & 0x7F) << shift
        if byte < 0x80:
            return found, place + 1
        shift += 7
    if at + most > len(body):
        raise cut_off(at)
    raise MalformedBody(f"the message has a number at byte {at} that takes more than {most} bytes")


def varint(value: int) -> bytes:
    """A number of at least 0 as its bytes."""
    found = bytearray()
    while value > 0x7F:
        found.append(value & 0x7F | 0x80)
        value >>= 7
    found.append(value)
    return bytes(found)


def header(number: int, size: int) -> bytes:
    """What comes before the `size` bytes of a string, of bytes, of a message or of packed numbers."""
    return bytes((number << 3 | LENGTH_DELIMITED,)) + varint(size)


def field(number: int, content: bytes) -> bytes:
    """A field with content; nothing where it is empty, which is a field's default."""
    return header(number, len(content)) + content if content else b""
