"""Messages as gRPC puts them into HTTP/2: a flag, a length, and the message, compressed where the flag says so.

Source: gRPC over HTTP/2, Length-Prefixed-Message and Message-Encoding.
"""

from __future__ import annotations

import zlib
from typing import Final

from serving.errors import InternalError, MalformedBody, TooLarge

PREFIX_BYTES: Final = 5

CODINGS: Final = ("gzip", "deflate")
"""The encodings that are read and written, beside `identity`; `deflate` is zlib's format (RFC 1950)."""

ACCEPTED: Final = b"identity, deflate, gzip"

COMPRESS_BYTES: Final = 4096
"""Answers below this are never compressed: they fit a few packets."""

_LEVEL: Final = 1
_WINDOW: Final = {"gzip": 16 + zlib.MAX_WBITS, "deflate": zlib.MAX_WBITS}


def frame(message: bytes) -> bytes:
    """A message as it is sent, not compressed."""
    return b"\0" + len(message).to_bytes(4, "big") + message


def prefix(flag: int, size: int) -> bytes:
    """What comes before a message of this size as it is sent."""
    return flag.to_bytes() + size.to_bytes(4, "big")


def compressed(coding: str, message: bytes) -> bytes:
    """A message as it is sent, compressed by one of `CODINGS`."""
    packer = zlib.compressobj(_LEVEL, zlib.DEFLATED, _WINDOW[coding])
    packed = packer.compress(message) + packer.flush()
    return b"\1" + len(packed).to_bytes(4, "big") + packed


def inflated(coding: str, packed: bytes, limit: int) -> bytes:
    """What a compressed message holds. Raises `TooLarge` over `limit` bytes, without inflating more, and `MalformedBody`."""
    decoder = zlib.decompressobj(_WINDOW[coding])
    try:
        message = decoder.decompress(packed, limit + 1)
    except zlib.error as error:
        raise MalformedBody(f"the message is not {coding}: {error}") from error
    if len(message) > limit:
        raise TooLarge(f"the inflated message exceeds {limit} bytes, the most that are taken")
    if not decoder.eof:
        raise MalformedBody(f"the message is not whole {coding}: it ends in the middle")
    if decoder.unused_data:
        raise MalformedBody(f"bytes follow the end of the {coding} message")
    return message


class Frames:
    """The messages of a body that comes in chunks of any size; `limit` is in bytes of a message as it was sent.

    `held`: the bytes that are kept.
    """

    def __init__(self, limit: int) -> None:
        self._limit = limit
        self._chunks: list[bytes] = []
        self.held = 0
        self._wanted = PREFIX_BYTES
        self._packed: bool | None = None
        """Of the message whose prefix was read: its flag."""

    def feed(self, chunk: bytes) -> None:
        """Takes the next bytes of the body."""
        if chunk:
            self._chunks.append(chunk)
            self.held += len(chunk)

    def next(self) -> tuple[bool, bytes] | None:
        """Whether the next message is compressed, and the message; None while it is not whole.

        Raises `TooLarge` as soon as its length is known, and `InternalError` for a prefix that is none.
        """
        if self._packed is None:
            if self.held < PREFIX_BYTES:
                return None
            prefix = self._take(PREFIX_BYTES)
            if prefix[0] > 1:
                raise InternalError(f"the flag of a message is {prefix[0]}; 0 or 1 (compressed) was expected")
            self._wanted = int.from_bytes(prefix[1:], "big")
            if self._wanted > self._limit:
                raise TooLarge(f"the message has {self._wanted} bytes; at most {self._limit} are taken")
            self._packed = bool(prefix[0])
        if self.held < self._wanted:
            return None
        packed, self._packed = self._packed, None
        return packed, self._take(self._wanted)

    def finish(self) -> None:
        """The body is at its end. Raises `InternalError` where that is in the middle of a message."""
        if self.held or self._packed is not None:
            raise InternalError("the request ends in the middle of a message")

    def _take(self, size: int) -> bytes:
        chunks = self._chunks
        if len(chunks) > 1:
            chunks[:] = (b"".join(chunks),)
        held = chunks.pop() if chunks else b""
        if len(held) > size:
            chunks.append(held[size:])
        self.held -= size
        return held[:size]
