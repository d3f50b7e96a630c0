"""Content codings: requests in gzip or deflate inflated within a limit, large answers compressed where asked.

A bomb costs no more than the limit. Source: RFC 9110, 8.4 (Content-Encoding) and 12.5.3 (Accept-Encoding); `deflate` is
zlib's format (RFC 1950), and raw deflate, which some send, is read too.
"""

from __future__ import annotations

import asyncio
import zlib
from collections.abc import Sequence
from typing import Final

from serving.errors import MalformedBody, TooLarge, UnsupportedMediaType

_ON_LOOP_BYTES: Final = 64 * 1024

COMPRESS_BYTES: Final = 4096
"""Answers below this are never compressed: they fit a few packets, and compressing costs more than it saves."""

_LEVEL: Final = 1


def codings_of(values: Sequence[str]) -> tuple[str, ...]:
    """The content codings to undo, last applied first. Raises `UnsupportedMediaType` for one that is not known."""
    codings = [coding.strip().lower() for value in values for coding in value.split(",") if coding.strip()]
    undone = tuple(reversed([coding for coding in codings if coding != "identity"]))
    for coding in undone:
        if coding not in ("gzip", "x-gzip", "deflate"):
            raise UnsupportedMediaType(f"the content coding '{coding}' is not supported; gzip and deflate are")
    if len(undone) > 1:
        raise UnsupportedMediaType(f"{len(undone)} content codings were applied; at most one is supported")
    return undone


class Inflater:
    """Collects a body as it comes; inflates it where it has a coding. `limit` is in bytes of the inflated body."""

    def __init__(self, codings: tuple[str, ...], limit: int) -> None:
        self._coding = codings[0] if codings else None
        self._limit = limit
        self._parts: list[bytes] = []
        self._size = 0
        self._decoder: zlib._Decompress | None = None
        if self._coding in ("gzip", "x-gzip"):
            self._decoder = zlib.decompressobj(16 + zlib.MAX_WBITS)

    async def feed(self, chunk: bytes) -> None:
        """Takes the next bytes. Raises `MalformedBody` or `TooLarge`."""
        if self._coding is None:
            self._parts.append(chunk)
        elif len(chunk) > _ON_LOOP_BYTES:
            await asyncio.to_thread(self._inflate, chunk)
        elif chunk:
            self._inflate(chunk)

    async def finish(self) -> bytes:
        """The whole body. Raises `MalformedBody` when the coded body is cut short."""
        decoder = self._decoder
        if decoder is not None and not decoder.eof:
            raise MalformedBody(f"the body is not whole {self._coding}: it ends in the middle")
        if self._coding is not None and decoder is None:
            raise MalformedBody(f"the body is empty, which is not {self._coding}")
        return self._parts[0] if len(self._parts) == 1 else b"".join(self._parts)

    def _inflate(self, chunk: bytes) -> None:
        if self._decoder is None:
            # zlib's header is a multiple of 31; raw deflate cannot begin so.
            wrapped = len(chunk) >= 2 and chunk[0] & 0x0F == 8 and int.from_bytes(chunk[:2], "big") % 31 == 0
            self._decoder = zlib.decompressobj(zlib.MAX_WBITS if wrapped else -zlib.MAX_WBITS)
        decoder = self._decoder
        if decoder.eof:
            raise MalformedBody(f"bytes follow the end of the {self._coding} body")
        try:
            while chunk:
                part = decoder.decompress(chunk, self._limit - self._size + 1)
                self._size += len(part)
                if self._size > self._limit:
                    raise TooLarge(f"the inflated body exceeded {self._limit} bytes.")
                self._parts.append(part)
                chunk = decoder.unconsumed_tail
                if decoder.unused_data:
                    raise MalformedBody(f"bytes follow the end of the {self._coding} body")
        except zlib.error as error:
            raise MalformedBody(f"the body is not {self._coding}: {error}") from error


def accepted(value: bytes) -> str | None:
    """The coding to answer in for an Accept-Encoding header: gzip, deflate or None (identity)."""
    weights: dict[str, float] = {}
    for part in value.decode("latin-1").lower().split(","):
        coding, _, parameter = part.strip().partition(";")
        weight = parameter.strip().removeprefix("q=").strip() or "1"
        try:
            weights[coding.strip()] = float(weight)
        except ValueError:
            continue
    chosen = max(("gzip", "deflate"), key=lambda coding: weights.get(coding, 0.0))
    return chosen if weights.get(chosen, 0.0) > 0.0 else None


def compress(coding: str, body: bytes) -> bytes:
    """The body in gzip or deflate."""
    packer = zlib.compressobj(_LEVEL, zlib.DEFLATED, 16 + zlib.MAX_WBITS if coding == "gzip" else zlib.MAX_WBITS)
    return packer.compress(body) + packer.flush()


def coding_fields(coding: str) -> bytes:
    """The header lines of an answer in that coding."""
    return b"content-encoding: %b\r\nvary: accept-encoding\r\n" % coding.encode()
