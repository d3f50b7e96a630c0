"""Answers as SageMaker's containers of trees print them: in the text of Python's own lists and numbers.

JSON is `{"predictions": [{OUTPUT: value, ...}, ...]}`, JSON lines one such object a line; both write NaN, which is no JSON,
as those containers do and as Python reads it. CSV has a list as `[0.1, 0.2]`: all rows on one line (`one_line`), or a
row a line with lists in quotes, or so for batch transform (`ended_lines`). Numbers have the digits of the float64 of equal value.
Source: SageMaker's XGBoost container (algorithm mode).
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any

import numpy as np

from serving.codecs import csv, jsonlines
from serving.codecs.arrays import writable
from serving.codecs.base import Asked, Encode, Encoded, Style
from serving.codecs.json import HEADER
from serving.contract import Array, ModelSpec


def json_encoder(spec: ModelSpec, open_inference: Encode) -> Encode:
    """Encoder of JSON answers; those to v2 questions are v2's."""
    rows = _rows(spec)

    def encode(arrays: Sequence[Array], asked: Asked | None) -> Encoded:
        if asked is not None and asked.style is Style.OPEN_INFERENCE:
            return open_inference(arrays, asked)
        return HEADER, json.dumps({"predictions": rows(arrays)}).encode()

    return encode


def lines_encoder(spec: ModelSpec) -> Encode:
    """Encoder of JSON lines."""
    rows = _rows(spec)

    def encode(arrays: Sequence[Array], asked: Asked | None) -> Encoded:
        return jsonlines.HEADER, "".join([json.dumps(row) + "\n" for row in rows(arrays)]).encode()

    return encode


def csv_encoder(spec: ModelSpec) -> Encode:
    """Encoder of CSV, whose last line has no end but by the convention `ended_lines`."""
    single = len(spec.outputs) == 1
    one_line, ended = spec.conventions.one_line, spec.conventions.ended_lines

    def encode(arrays: Sequence[Array], asked: Asked | None) -> Encoded:
        columns = [_values(array, batched=spec.batched) for array in arrays]
        values = columns[0] if single else [value for row in zip(*columns, strict=True) for value in row]
        if one_line:
            return csv.HEADER, ",".join(map(str, values)).encode()
        if ended and single:
            return csv.HEADER, "".join([f"{value}\n" for value in values]).encode()
        lines = [",".join(map(_field, row)) for row in zip(*columns, strict=True)]
        return csv.HEADER, ("\n".join(lines) + "\n" * ended).encode()

    return encode


def _rows(spec: ModelSpec) -> Any:
    names = [output.name for output in spec.outputs]

    def rows(arrays: Sequence[Array]) -> list[dict[str, Any]]:
        columns = [_values(array, batched=spec.batched) for array in arrays]
        return [dict(zip(names, row, strict=True)) for row in zip(*columns, strict=True)]

    return rows


def _values(array: Array, *, batched: bool) -> list[Any]:
    """The value of each row as Python has it."""
    if not batched:
        array = array[None]
    if array.dtype.kind in "OSU":
        found: list[Any] = writable(array)
        return found
    if array.dtype.kind == "V":
        array = array.astype(np.float32)
    values: list[Any] = array.tolist()
    return values


def _field(value: Any) -> str:
    """A value as a CSV field."""
    if isinstance(value, str):
        return csv.quoted(value.encode()).decode()
    return f'"{value}"' if isinstance(value, list) else str(value)
