"""As much of HPACK as a rude client needs: fields written as plain literals, and blocks of a server read whole (RFC 7541)."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable
from functools import cache
from typing import Final

Field = tuple[str, str]

_STATIC: Final = """
:authority|:method GET|:method POST|:path /|:path /index.html|:scheme http|:scheme https|:status 200|:status 204|:status 206
:status 304|:status 400|:status 404|:status 500|accept-charset|accept-encoding gzip, deflate|accept-language|accept-ranges
accept|access-control-allow-origin|age|allow|authorization|cache-control|content-disposition|content-encoding
content-language|content-length|content-location|content-range|content-type|cookie|date|etag|expect|expires|from|host
if-match|if-modified-since|if-none-match|if-range|if-unmodified-since|last-modified|link|location|max-forwards
proxy-authenticate|proxy-authorization|range|referer|refresh|retry-after|server|set-cookie|strict-transport-security
transfer-encoding|user-agent|vary|via|www-authenticate
"""

STATIC: Final[list[Field]] = [
    (name, value)
    for line in _STATIC.strip().splitlines()
    for name, _, value in (entry.partition(" ") for entry in line.split("|"))
]
"""RFC 7541, appendix A; the first has index 1."""

_LENGTHS: Final = """
13 23 28 28 28 28 28 28 28 24 30 28 28 30 28 28 28 28 28 28 28 28 30 28 28 28 28 28 28 28 28 28
6 10 10 12 13 6 8 11 10 10 8 11 8 6 6 6 5 5 5 6 6 6 6 6 6 6 7 8 15 6 12 10
13 6 7 7 7 7 7 7 7 7 7 7 7 7 7 7 7 7 7 7 7 7 7 7 8 7 8 13 19 13 14 6
15 5 6 5 6 5 6 6 6 5 7 7 6 6 6 5 6 7 6 5 5 6 7 7 7 7 7 15 11 14 13 28
"""
"""Bits of each ASCII symbol in RFC 7541, appendix B, whose code is canonical: the lengths say it all."""


def integer(value: int, bits: int, first: int = 0) -> bytes:
    """An integer behind a prefix of so many bits, the rest of whose first octet is `first` (RFC 7541, 5.1)."""
    most = (1 << bits) - 1
    if value < most:
        return bytes([first | value])
    encoded = bytearray([first | most])
    value -= most
    while value >= 128:
        encoded.append(value % 128 + 128)
        value //= 128
    encoded.append(value)
    return bytes(encoded)


def string(text: str | bytes) -> bytes:
    """A string literal without Huffman coding."""
    data = text.encode("latin-1") if isinstance(text, str) else text
    return integer(len(data), 7) + data


def literal(name: str | bytes, value: str | bytes) -> bytes:
    """A field without indexing."""
    return b"\x00" + string(name) + string(value)


def remembered(name: str | bytes, value: str | bytes) -> bytes:
    """A field that enters the dynamic table, as its index 62."""
    return b"\x40" + string(name) + string(value)


def indexed(index: int) -> bytes:
    """A field of either table."""
    return integer(index, 7, 0x80)


def table_size(size: int) -> bytes:
    """A dynamic table size update."""
    return integer(size, 5, 0x20)


def block(fields: Iterable[Field]) -> bytes:
    """A header block of literals."""
    return b"".join(literal(name, value) for name, value in fields)


@cache
def _codes() -> dict[tuple[int, int], str]:
    """Characters by the length and value of their code, up to 15 bits: what an answer's fields are written in."""
    lengths = [int(each) for each in _LENGTHS.split()]
    short = sorted((length, symbol) for symbol, length in enumerate(lengths) if length <= 15)
    codes = {}
    code = before = 0
    for length, symbol in short:
        code <<= length - before
        codes[length, code] = chr(symbol)
        code, before = code + 1, length
    return codes


def huffman(data: bytes) -> str:
    """Decodes a Huffman-coded ASCII string. Raises `ValueError` on a symbol that no answer has cause to hold."""
    codes = _codes()
    text = []
    code = length = 0
    for octet in data:
        for shift in range(7, -1, -1):
            code, length = code << 1 | octet >> shift & 1, length + 1
            symbol = codes.get((length, code))
            if symbol is not None:
                text.append(symbol)
                code = length = 0
    if length > 7 or code != (1 << length) - 1:
        raise ValueError(f"{data.hex()} is no Huffman-coded text")
    return "".join(text)


class Decoder:
    """Reads the header blocks of one connection, in their order."""

    def __init__(self, size: int = 4096) -> None:
        self._size = size
        self._used = 0
        self._entries: deque[Field] = deque()
        self._data = b""
        self._at = 0

    def decode(self, data: bytes) -> list[Field]:
        """The fields of one block. Raises `ValueError` and `IndexError` where it is malformed."""
        self._data, self._at = data, 0
        fields = []
        while self._at < len(data):
            first = data[self._at]
            if first & 0x80:
                fields.append(self._entry(self._integer(7)))
            elif first & 0x40:
                field = self._literal(6)
                fields.append(field)
                self._entries.appendleft(field)
                self._used += _cost(field)
                self._evict()
            elif first & 0x20:
                self._size = self._integer(5)
                self._evict()
            else:
                fields.append(self._literal(4))
        return fields

    def _entry(self, index: int) -> Field:
        if not index:
            raise ValueError("a field of index 0")
        return STATIC[index - 1] if index <= len(STATIC) else self._entries[index - len(STATIC) - 1]

    def _literal(self, bits: int) -> Field:
        index = self._integer(bits)
        name = self._entry(index)[0] if index else self._string()
        return name, self._string()

    def _string(self) -> str:
        coded = self._data[self._at] & 0x80
        length = self._integer(7)
        data = self._data[self._at : self._at + length]
        self._at += length
        return huffman(data) if coded else data.decode("latin-1")

    def _integer(self, bits: int) -> int:
        most = (1 << bits) - 1
        value = self._data[self._at] & most
        self._at += 1
        if value < most:
            return value
        shift = 0
        while True:
            octet = self._data[self._at]
            self._at += 1
            value += (octet & 127) << shift
            shift += 7
            if not octet & 128:
                return value

    def _evict(self) -> None:
        while self._used > self._size:
            self._used -= _cost(self._entries.pop())


def _cost(field: Field) -> int:
    return len(field[0]) + len(field[1]) + 32
