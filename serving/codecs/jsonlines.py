"""`application/jsonlines`: one row a line, in every form that a row of `application/json` has.

A line is a list, a number or string where rows are single values, an object by input name, a record by feature name,
{"features": [...]}, or {"instances": [row]} with one row. Answers hold one line a row: its value where the model has
one output, else an object by output name.
Sources: jsonlines.org; SageMaker common data formats for inference.
"""

from __future__ import annotations

import struct
from collections.abc import Callable, Sequence
from typing import Any, Final

import orjson

from serving.codecs.arrays import json_text, writable
from serving.codecs.base import Asked, Buffer, Decode, Decoded, Encode, Encoded
from serving.codecs.json import StrictJson
from serving.codecs.plan import InputPlan
from serving.codecs.values import PACK_CODES, shown
from serving.contract import Array, ModelSpec
from serving.datatypes import BYTES
from serving.errors import InvalidInput, MalformedBody

MEDIA_TYPES: Final = ("application/jsonlines", "application/jsonl", "application/x-ndjson")
HEADER: Final = b"content-type: application/jsonlines\r\n"


def decoder(plan: InputPlan) -> Decode:
    """Decoder for any model; one that is not batched takes one line."""
    strict = StrictJson(plan)
    names = {*plan.index, *(plan.single.features if plan.single is not None else ())}
    wrapped = "instances" not in names
    pack_row = _packer(plan)
    unpacks = "features" not in names

    def values(row: Any) -> Any:
        return row["features"] if unpacks and type(row) is dict and len(row) == 1 else row

    def decode(body: Buffer) -> Decoded:
        text = bytes(body)
        rows = _rows(text, wrapped=wrapped)
        # struct takes booleans for numbers.
        if pack_row is not None and b"true" not in text and b"false" not in text:
            try:
                return len(rows), (b"".join([pack_row(*values(row)) for row in rows]),), None, None
            except (KeyError, TypeError, OverflowError, struct.error):
                pass
        return *strict.rows(rows, "the body"), None

    return decode


def _packer(plan: InputPlan) -> Callable[..., bytes] | None:
    """What packs the numbers of one row of a plain model."""
    tensor = plan.single
    if tensor is None or not plan.batched or not plan.fixed or len(tensor.shape) != 2 or tensor.datatype == BYTES:
        return None
    code = PACK_CODES.get(tensor.datatype)
    return None if code is None else struct.Struct(f"<{tensor.shape[1]}{code}").pack


def _rows(text: bytes, *, wrapped: bool) -> list[Any]:
    """The value of each line. Raises `MalformedBody` and, for several rows in a line, `InvalidInput`."""
    lines = text.split(b"\n")
    while lines and not lines[-1].strip():
        lines.pop()
    if not lines:
        raise MalformedBody("the body is empty; a line of JSON for each row was expected")
    rows = []
    for number, line in enumerate(lines, 1):
        try:
            row = orjson.loads(line)
        except orjson.JSONDecodeError as error:
            what = f"is not JSON: {error}" if line.strip() else "is empty; a row was expected"
            raise MalformedBody(f"line {number} of the body {what}") from None
        if wrapped and type(row) is dict and "instances" in row:
            row = _single(row, number)
        rows.append(row)
    return rows


def _single(document: dict[str, Any], number: int) -> Any:
    rows = document["instances"]
    if len(document) > 1 or not isinstance(rows, list) or len(rows) != 1:
        came = f"{len(rows)} rows" if isinstance(rows, list) else shown(rows)
        if len(document) > 1:
            came = "other keys beside it"
        raise InvalidInput(f"line {number} of the body: 'instances' has {came}; one row a line was expected")
    return rows[0]


def encoder(spec: ModelSpec) -> Encode:
    """Encoder of one line a row, whatever the form of the question."""
    names = [output.name for output in spec.outputs]
    plain = len(names) == 1 and spec.batched and spec.outputs[0].datatype != BYTES

    def encode(arrays: Sequence[Array], asked: Asked | None) -> Encoded:
        if plain and arrays[0].ndim <= 2 and arrays[0].size:
            # [[1,2],[3,4]] or [1,2] without its outer brackets is nearly there.
            text = json_text(arrays[0])[1:-1]
            lines = text.replace(b"],[", b"]\n[") if arrays[0].ndim == 2 else text.replace(b",", b"\n")
            return HEADER, lines + b"\n"
        return HEADER, b"".join([line + b"\n" for line in _lines(arrays)])

    def _lines(arrays: Sequence[Array]) -> list[bytes]:
        option = orjson.OPT_SERIALIZE_NUMPY
        found = [writable(array if spec.batched else array[None]) for array in arrays]
        if len(found) == 1:
            return [orjson.dumps(row, option=option) for row in found[0]]
        return [orjson.dumps(dict(zip(names, row, strict=True)), option=option) for row in zip(*found, strict=True)]

    return encode
