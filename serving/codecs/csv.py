"""`text/csv`: one row a line, for models of one input of shape [N], [N, k] or, without batching, [k].

No header is needed; a first line that holds exactly the input's `features`, in any order, is one and orders the
columns (not one of numbers alone, which is a row). Numbers may be written in any usual way, `nan` and `inf` included (CSV, unlike JSON, has a use for them);
empty fields are NaN for a model of the convention `missing`, and refused by others. Answers hold one line a row, the
values of all outputs one after the other.
Source of the parameter `label_size`: SageMaker's XGBoost container, which reads bodies without labels whatever it says.
"""

from __future__ import annotations

import csv
import io
import math
import re
import struct
import time
from collections.abc import Iterator, Sequence
from itertools import chain
from math import prod
from typing import Any, Final, NoReturn

import numpy as np
import orjson

from serving.codecs import bulk, numbers
from serving.codecs.arrays import writable
from serving.codecs.base import Asked, Buffer, Column, Decode, Decoded, Encode, Encoded
from serving.codecs.plan import InputPlan, Tensor
from serving.codecs.raw import element
from serving.codecs.values import PACK_CODES, column
from serving.contract import Array, ModelSpec
from serving.datatypes import BYTES, FLOATS, INTEGERS, NUMPY
from serving.errors import InvalidInput, MalformedBody, UnsupportedMediaType

HEADER: Final = b"content-type: text/csv; charset=utf-8\r\n"

_NUMBER_BYTES: Final = b"0123456789+-.eE, \t\n"
_SPECIAL: Final = re.compile(rb'[",\r\n]')


def readable(plan: InputPlan) -> bool:
    """Whether CSV can carry the model's inputs."""
    return plan.single is not None and len(plan.single.shape) in {1, 2}


def check_parameters(parameters: str) -> None:
    """Raises `UnsupportedMediaType` for a `label_size` (of `text/csv; label_size=1`) other than 0 and 1.

    No row of a question has a label, and so none is cut off.
    """
    for parameter in parameters.split(";"):
        key, _, value = parameter.partition("=")
        if key.strip() == "label_size" and value.strip().strip('"') not in {"0", "1"}:
            raise UnsupportedMediaType(
                f"Content-Type 'text/csv' has label_size '{value.strip()[:64]}'; 0 or 1 was expected (and no labels)"
            )


def decoder(plan: InputPlan) -> Decode:
    """Decoder for a model that is `readable`: JSON's parser for plain numbers, the csv module for the rest."""
    tensor = plan.only("text/csv")
    strict = StrictCsv(plan)
    if not plan.batched or not plan.fixed or tensor.datatype not in PACK_CODES:
        return strict.decode
    width = prod(tensor.shape[1:])
    pack_row = struct.Struct(f"<{width}{PACK_CODES[tensor.datatype]}").pack

    row_type = numbers.row_type(plan)

    def plain(text: bytes) -> list[bytes] | None:
        """Packed rows of lines of JSON numbers, None where there is anything else."""
        if text.translate(None, _NUMBER_BYTES):
            return None
        try:
            rows = orjson.loads(b"[[%b]]" % text.replace(b"\n", b"],["))
            return [pack_row(*row) for row in rows]
        except (ValueError, OverflowError, struct.error):
            return None

    def decode(body: Buffer) -> Decoded:
        text = body if type(body) is bytes else bytes(body)
        if b"\r" in text:
            text = text.replace(b"\r\n", b"\n")
        text = text.rstrip(b"\n")
        if row_type is not None and len(text) > numbers.PAYS:
            found = numbers.csv_rows(text, *row_type)
            return strict.decode(body) if found is None else (found[0], (found[1],), None, None)
        if len(text) <= bulk.THRESHOLD:
            rows = plain(text)
            return (len(rows), (b"".join(rows),), None, None) if rows else strict.decode(body)
        packed: list[bytes] = []
        count = 0
        for piece in bulk.lines(text, bulk.PIECE):
            rows = plain(piece)
            if rows is None:
                return strict.decode(body)
            count += len(rows)
            packed.append(b"".join(rows))
            time.sleep(0)
        return count, (b"".join(packed),), None, None

    return decode


class StrictCsv:
    """Reads any CSV that the model's input can take, and names the row and column of what is wrong."""

    def __init__(self, plan: InputPlan) -> None:
        self._plan = plan
        self._tensor = plan.only("text/csv")
        self._label = f"input '{self._tensor.name}'"
        stripped = tuple(feature.strip() for feature in self._tensor.features)
        # Columns that differ in nothing but spaces cannot be told by a header.
        self._features = stripped if len(set(stripped)) == len(stripped) else ()
        self._missing = plan.spec.conventions.missing and self._tensor.datatype in FLOATS

    def decode(self, body: Buffer) -> Decoded:
        """Decodes a whole body; raises `MalformedBody`, `InvalidInput`."""
        try:
            text = str(body, "utf-8-sig")
        except UnicodeDecodeError as error:
            raise MalformedBody(f"the body is not UTF-8: {error}") from None
        if not text.strip():
            raise MalformedBody("the body is empty; lines of comma-separated values were expected")
        try:
            order, rows, width, values = self._read(
                csv.reader(io.StringIO(text.rstrip("\r\n"), newline=""), strict=True)
            )
        except csv.Error as error:
            raise MalformedBody(f"the body is not CSV: {error}") from None
        if order is not None:
            values = [values[row * width + j] for row in range(rows) for j in order]
        shape = self._shape(rows, width)
        self._plan.check_shape(0, shape)
        return *self._plan.assemble([Tensor(self._tensor.name, None, shape, self._column(values, shape))]), None

    def _read(self, lines: Iterator[list[str]]) -> tuple[list[int] | None, int, int, list[Any]]:
        """The header's order, the number of rows, their width and all values, as they are written.

        Line by line: other threads run between lines, and of each only its values are kept.
        """
        row = next(lines)
        order, first = self._header(row)
        if first and not (row := next(lines, [])):
            raise InvalidInput(f"{self._label} has no rows after the header; at least one was expected")
        width = len(row)
        if order is not None and width != len(order):
            raise InvalidInput(f"{self._label}: line {first + 1} has {width} values where the header has {len(order)}")
        values: list[Any] = []
        number = first
        for number, fields in enumerate(chain([row], lines), first + 1):
            if len(fields) != width or not fields:
                raise InvalidInput(
                    f"{self._label}: line {number} has {len(fields)} values where line {first + 1} has {width}"
                )
            values += [self._value(field, number, j) for j, field in enumerate(fields, 1)]
        return order, number - first, width, values

    def _header(self, fields: list[str]) -> tuple[list[int] | None, int]:
        """For a header, where each feature stands in a line, and 1, the number of lines that it takes; else None, 0."""
        features = self._features
        names = [field.strip() for field in fields]
        # A line of numbers is a row even where features are called so: the quick way takes it for one.
        named = self._tensor.datatype == BYTES or not all(map(_is_number, names))
        if features and named and len(names) == len(features) and set(names) == set(features):
            return [names.index(feature) for feature in features], 1
        if features and self._tensor.datatype != BYTES and not any(map(_is_number, names)):
            self._refuse_header(names)
        return None, 0

    def _refuse_header(self, names: list[str]) -> NoReturn:
        """Says what is wrong with a first line that cannot be a row."""
        features = self._features
        expected = ", ".join(features[:8]) + (", ..." if len(features) > 8 else "")
        fault = "; ".join(
            [f"it has '{name[:64]}', which is no feature" for name in names if name not in features][:1]
            + [f"it has '{name[:64]}' twice" for i, name in enumerate(names) if name in names[:i]][:1]
            + [f"it has no '{feature[:64]}'" for feature in features if feature not in names][:1]
        )
        raise InvalidInput(f"{self._label}: line 1 is no row, and no header: {fault}; expected: {expected}")

    def _shape(self, rows: int, width: int) -> tuple[int, ...]:
        if len(self._tensor.shape) == 2:
            return rows, width
        if not self._plan.batched and rows == 1:
            return (width,)
        return (rows,) if width == 1 else (rows, width)

    def _value(self, field: str, line: int, place: int) -> Any:
        datatype = self._tensor.datatype
        if datatype == BYTES:
            return field
        text = field.strip()
        where = f"{self._label}: line {line}, value {place}"
        if not text:
            if self._missing:
                return math.nan
            raise InvalidInput(f"{where} is empty; a number was expected")
        if datatype == "BOOL" and text.lower() in {"true", "false"}:
            return text.lower() == "true"
        if "_" not in text and text.isascii():
            try:
                whole = int(text)
            except ValueError:
                pass
            else:
                # What 64 bits cannot hold is a float, as in JSON.
                if -(2**63) <= whole < 2**64:
                    return whole
            try:
                number = float(text)
            except ValueError:
                pass
            else:
                if math.isfinite(number) or (datatype not in INTEGERS and text[-1].isalpha()):
                    return number
                raise InvalidInput(f"{where} is '{text[:48]}', out of range for {datatype}")
        raise InvalidInput(f"{where} is '{text[:48]}'; a number was expected")

    def _column(self, values: list[Any], shape: tuple[int, ...]) -> Column:
        datatype = self._tensor.datatype
        if datatype in INTEGERS or datatype in {BYTES, "BOOL"} or all(map(math.isfinite, values)):
            return column(self._label, datatype, values, shape)
        # `column` takes only what JSON can say: the few values that are not finite are put in after it.
        packed = column(self._label, datatype, [v if math.isfinite(v) else 0 for v in values], shape)
        array = np.frombuffer(bytearray(packed), NUMPY[datatype])  # type: ignore[arg-type]
        for i, value in enumerate(values):
            if not math.isfinite(value):
                array[i] = value
        return array.tobytes()


def encoder(spec: ModelSpec) -> Encode:
    """Encoder of all outputs as lines, whatever the question asked for."""
    plain = len(spec.outputs) == 1 and spec.outputs[0].datatype not in {BYTES, "BF16"}

    def encode(arrays: Sequence[Array], asked: Asked | None) -> Encoded:
        if plain and arrays[0].ndim in {1, 2} and arrays[0].flags.c_contiguous and spec.batched:
            text = bulk.json_text(arrays[0])
            if b"null" not in text:
                # [[1,2],[3,4]] or [1,2] without its brackets is nearly CSV.
                inside = text[2:-2].replace(b"],[", b"\n") if arrays[0].ndim == 2 else text[1:-1].replace(b",", b"\n")
                return HEADER, inside + b"\n"
        return HEADER, _lines(arrays, batched=spec.batched)

    return encode


def _lines(arrays: Sequence[Array], *, batched: bool) -> bytes:
    rows = len(arrays[0]) if batched else 1
    columns = [_texts(array.reshape(rows, -1)) for array in arrays]
    lines = [b",".join([text for part in parts for text in part]) for parts in zip(*columns, strict=True)]
    return b"\n".join([*(line or b'""' for line in lines), b""])


def _texts(array: Array) -> list[list[bytes]]:
    if array.dtype.kind in "OSU":
        return [[quoted(element(value)) for value in row] for row in array.tolist()]
    found = orjson.loads(orjson.dumps(writable(array), option=orjson.OPT_SERIALIZE_NUMPY))
    return [
        # JSON has null for NaN and infinities; here they are written as numpy's own text files have them.
        [str(float(array[i, j])).encode() if value is None else orjson.dumps(value) for j, value in enumerate(row)]
        for i, row in enumerate(found)
    ]


def _is_number(text: str) -> bool:
    """Whether a field of the first line belongs to a row: a number, or nothing."""
    try:
        float(text or "nan")
    except ValueError:
        return text.lower() in {"true", "false"}
    return True


def quoted(text: bytes) -> bytes:
    """A field of CSV, in quotes where it needs them."""
    if _SPECIAL.search(text) is None:
        return text
    return b'"%b"' % text.replace(b'"', b'""')
