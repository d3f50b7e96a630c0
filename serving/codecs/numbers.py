"""Rows of plain floats by simdjson, two to three times as fast as any parser that makes Python objects of them.

Like `bulk`, it answers only for the form that it knows, exactly as the ordinary way would, and None for anything else,
which then goes the ordinary way. Text is parsed in pieces of about 256 KB, between which other threads run.
Benchmark: loadtests/bench/codecs.py.
"""

from __future__ import annotations

import re
import threading
import time
from typing import Any, Final

import numpy as np
import simdjson

from serving.codecs import bulk
from serving.codecs.plan import InputPlan
from serving.datatypes import NUMPY

PAYS: Final = 8 * 1024
"""Bytes of a body from which it is faster than the ordinary way."""

PIECE: Final = 256 * 1024

_MOST_KEPT: Final = 2 * PIECE
"""Longest text of a parser that is kept; rows over this have one of their own, for what it takes of memory."""

_ROW_END: Final = re.compile(rb"\][ \t\r\n]*,")
_OPENING: Final = ord("[")
_FAULTS: Final = (ValueError, TypeError, RuntimeError)


class _Parsers(threading.local):
    """A parser for each thread: its memory is kept, which saves as much time again as the parsing takes."""

    def __init__(self) -> None:
        self.mine = simdjson.Parser()


_parsers: Final = _Parsers()


def row_type(plan: InputPlan) -> tuple[int, np.dtype[Any]] | None:
    """Width and dtype of the rows of a batched model of one float input [N, k]; None for any other model."""
    tensor = plan.single
    if tensor is None or not plan.batched or not plan.fixed or len(tensor.shape) != 2:
        return None
    return (tensor.shape[1], NUMPY[tensor.datatype]) if tensor.datatype in {"FP16", "FP32", "FP64"} else None


def json_rows(body: bytes, width: int, dtype: np.dtype[Any]) -> tuple[int, bytes, bool] | None:
    """Rows of {"instances": [[...], ...]} or of a bare list of lists: how many, packed, whether bare."""
    opening, closing = bulk.rows_between(body)
    if opening is None or closing is None:
        return None
    start, end = opening.end(), closing.start()
    rows = 0
    packed = []
    while start < end:
        cut = _ROW_END.search(body, start + PIECE, end)
        piece = body[start : end if cut is None else cut.start() + 1]
        found = _piece(b"[%b]" % piece, width, dtype)
        # As many brackets as rows: none is inside a row, and none in a string.
        if found is None or np.count_nonzero(np.frombuffer(piece, np.uint8) == _OPENING) != found[0]:
            return None
        rows += found[0]
        packed.append(found[1])
        if cut is None:
            return rows, b"".join(packed), opening[1] is None
        start = cut.end()
        time.sleep(0)
    return None


def csv_rows(text: bytes, width: int, dtype: np.dtype[Any]) -> tuple[int, bytes] | None:
    """Lines of JSON numbers, parted by \\n and without one at the end: how many, packed."""
    if b"[" in text or b"\r" in text:
        return None
    rows = 0
    packed = []
    for i, piece in enumerate(bulk.lines(text, PIECE)):
        if i:
            time.sleep(0)
        found = _piece(b"[[%b]]" % piece.replace(b"\n", b"],["), width, dtype)
        if found is None:
            return None
        rows += found[0]
        packed.append(found[1])
    return rows, b"".join(packed)


def _piece(text: bytes, width: int, dtype: np.dtype[Any]) -> tuple[int, bytes] | None:
    """The rows of a list of lists of `width` numbers, whatever its innermost nesting."""
    try:
        parser = _parsers.mine if len(text) <= _MOST_KEPT else simdjson.Parser()
        rows: Any = parser.parse(text)
        widths = [len(row) for row in rows]
        wide = np.frombuffer(rows.as_buffer(of_type="d"), np.float64)
    except _FAULTS:
        # A parser that has raised refuses all later work.
        _parsers.mine = simdjson.Parser()
        return None
    if widths.count(width) != len(widths) or wide.size != len(widths) * width or not widths:
        return None
    with np.errstate(over="ignore"):
        found = wide.astype(dtype, copy=False)
    return (len(widths), found.tobytes()) if np.isfinite(found).all() else None
