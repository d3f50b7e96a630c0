"""Large bodies in pieces: other threads run between pieces of about 64 KB, which one call of the parser would not let.

Each function here answers only for the plain form that it knows, exactly as the ordinary way would, and None for
anything else, which then goes the ordinary way. Decoding and encoding of such bodies belong on a thread.
"""

from __future__ import annotations

import re
import struct
import time
from itertools import chain
from math import prod
from typing import Any, Final

import orjson

from serving.contract import Array

THRESHOLD: Final = 256 * 1024
"""Bytes of a body above which it is worth while."""

PIECE: Final = 64 * 1024
ELEMENTS: Final = 8192
"""Elements of a piece of output."""

PLACEHOLDER: Final = "\0data"
"""Stands in the document where the flat data was cut out."""

_FAULTS: Final = (ValueError, TypeError, OverflowError, struct.error)
_DATA: Final = re.compile(rb'"data"\s*:\s*\[')
_ROWS_START: Final = re.compile(rb'[ \t\r\n]*(\{[ \t\r\n]*"instances"[ \t\r\n]*:[ \t\r\n]*)?\[')
_ROWS_END: Final = re.compile(rb"\][ \t\r\n]*(\})?[ \t\r\n]*\Z")
_NOT_BRACKETS: Final = bytes(set(range(256)) - set(b"[]"))
_SPACE: Final = b" \t\r\n"
_HEAD_BYTES: Final = 4096
_MOST_SKELETON: Final = 1 << 20


def flat_array(body: bytes, code: str) -> tuple[bytes, bytes] | None:
    """A v2 body with `PLACEHOLDER` for the flat numbers of its first `data`, and those numbers packed."""
    opening = _DATA.search(body, 0, _HEAD_BYTES)
    if opening is None:
        return None
    start = opening.end()
    end = body.find(b"]", start)
    if end < 0 or len(body) - end > _HEAD_BYTES:
        return None
    packed = _numbers(body, start, end, code)
    if packed is None:
        return None
    return body[:start] + orjson.dumps(PLACEHOLDER) + body[end:], packed


def _numbers(body: bytes, start: int, end: int, code: str) -> bytes | None:
    packed = []
    while True:
        cut = body.find(b",", start + PIECE, end)
        if cut < 0:
            cut = end
        piece = body[start:cut]
        try:
            values = orjson.loads(b"[%b]" % piece)
            if not values or b"true" in piece or b"false" in piece:
                return None
            packed.append(struct.pack(f"<{len(values)}{code}", *values))
        except _FAULTS:
            return None
        if cut == end:
            return b"".join(packed)
        start = cut + 1
        time.sleep(0)


def rows_between(body: bytes) -> tuple[re.Match[bytes] | None, re.Match[bytes] | None]:
    """What stands before the rows of {"instances": [...]} (its group 1) or of a bare list, and after them."""
    opening = _ROWS_START.match(body)
    closing = _ROWS_END.search(body, max(0, len(body) - 64))
    if opening is None or closing is None or (opening[1] is None) is not (closing[1] is None):
        return None, None
    return opening, closing


def rows(body: bytes, inner: tuple[int, ...], code: str) -> tuple[int, bytes, bool] | None:
    """Rows of {"instances": [...]} or of a bare list, `inner` their shape: how many, packed, whether bare."""
    opening, closing = rows_between(body)
    if opening is None or closing is None:
        return None
    found = _nested(body, opening.end(), closing.start(), inner, code)
    return None if found is None else (*found, opening[1] is None)


def _nested(body: bytes, start: int, end: int, inner: tuple[int, ...], code: str) -> tuple[int, bytes] | None:
    """Rows written between `start` and `end`.

    Pieces are cut at any comma. One that begins or ends inside brackets is completed with the brackets that are
    missing, so that the parser proves it; that brackets stand where `inner` wants them is proved against the row's
    skeleton ("[[][]]" for [2, k]), and the length of innermost lists is carried over cuts.
    """
    full = len(inner)
    width = inner[-1] if inner else 0
    if inner and prod(inner[:-1]) > _MOST_SKELETON // (2 * full):
        return None
    skeleton = _skeleton(inner)
    depth = carried = at = elements = 0
    packed = []
    while True:
        cut = body.find(b",", start + PIECE, end)
        if cut < 0:
            cut = end
        piece = body[start:cut].strip(_SPACE)
        if not piece or piece[0] == 0x5D or piece[-1] == 0x5B or b"true" in piece or b"false" in piece:
            return None
        brackets = piece.translate(None, _NOT_BRACKETS)
        if inner:
            offset = at % len(skeleton)
            repeats = (offset + len(brackets)) // len(skeleton) + 1
            if (skeleton * repeats)[offset : offset + len(brackets)] != brackets:
                return None
        elif brackets:
            return None
        at += len(brackets)
        after = depth + 2 * brackets.count(b"[") - len(brackets)
        try:
            level: list[Any] = orjson.loads(b"[%b%b%b]" % (b"[" * depth, piece, b"]" * after))
            for _ in range(full - 1):
                if set(map(type, level)) != {list}:
                    return None
                level = list(chain.from_iterable(level))
            if inner:
                if set(map(type, level)) != {list}:
                    return None
                sizes = list(map(len, level))
                if depth == full:
                    sizes[0] += carried
                carried = sizes.pop() if after == full else 0
                if carried > width or any(size != width for size in sizes):
                    return None
                level = list(chain.from_iterable(level))
            packed.append(struct.pack(f"<{len(level)}{code}", *level))
        except _FAULTS:
            return None
        elements += len(level)
        depth = after
        if cut == end:
            break
        start = cut + 1
        time.sleep(0)
    if depth or (inner and at % len(skeleton)):
        return None
    return elements // prod(inner), b"".join(packed)


def _skeleton(inner: tuple[int, ...]) -> bytes:
    """The brackets of one row: "[]" for [k], "[[][]]" for [2, k]; nothing for a scalar."""
    text = b"[]" if inner else b""
    for size in reversed(inner[:-1]):
        text = b"[%b]" % (text * size)
    return text


def json_text(array: Array) -> bytes:
    """A large C-ordered array of a dtype that orjson writes, as JSON."""
    if array.size <= ELEMENTS or array.ndim == 0:
        return orjson.dumps(array, option=orjson.OPT_SERIALIZE_NUMPY)
    row = array.size // len(array)
    if row > ELEMENTS:
        return b"[%b]" % b",".join([json_text(part) for part in array])
    step = ELEMENTS // max(row, 1)
    parts = []
    for start in range(0, len(array), step):
        parts.append(orjson.dumps(array[start : start + step], option=orjson.OPT_SERIALIZE_NUMPY)[1:-1])
        time.sleep(0)
    return b"[%b]" % b",".join(parts)


def lines(body: bytes, size: int) -> list[bytes]:
    """A text cut at line ends into pieces of about `size` bytes, without those line ends."""
    pieces = []
    start, end = 0, len(body)
    while True:
        cut = body.find(b"\n", start + size)
        if cut < 0:
            cut = end
        pieces.append(body[start:cut])
        if cut == end:
            return pieces
        start = cut + 1
