"""`application/x-recordio-protobuf`: one protobuf record a row, in RecordIO frames.

A row of a model of one input is `features["values"]` (or under the input's name), of several inputs one feature an
input. Where `keys` are given the rest of the row is NaN for a model of the convention `missing`, else 0. Labels are
read over. Answers hold one record a row with each output as `label[NAME]`: float32, float64 or int32, or bytes.
Sources: RecordIO of MXNet (magic, length, padding to 4 bytes); SageMaker's common data formats.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from math import prod
from struct import Struct
from typing import Final

import numpy as np

from serving.codecs import record, sparse
from serving.codecs.base import Asked, Buffer, Column, Decode, Decoded, Encode, Encoded
from serving.codecs.npy import converted
from serving.codecs.plan import InputPlan, Tensor
from serving.codecs.raw import element
from serving.codecs.record import Value
from serving.codecs.values import dims
from serving.contract import Array, ModelSpec, TensorSpec
from serving.datatypes import BYTES
from serving.errors import InvalidInput, MalformedBody, NotAcceptable

MEDIA_TYPE: Final = "application/x-recordio-protobuf"
HEADER: Final = b"content-type: application/x-recordio-protobuf\r\n"
MAGIC: Final = 0xCED7230A

_FRAME: Final = Struct("<II")
_WHOLE, _FIRST, _MIDDLE, _LAST = range(4)
_LENGTH_BITS: Final = 29
_PADDING: Final = (b"", b"\0\0\0", b"\0\0", b"\0")


def decoder(plan: InputPlan) -> Decode:
    """Decoder for any model; one that is not batched takes one record."""
    single = plan.single if plan.batched and plan.fixed else None

    def decode(body: Buffer) -> Decoded:
        data = bytes(body)
        inner = () if single is None else single.shape[1:]
        if single is not None and (rows := _alike(data, inner)) is not None and rows.shape[1] == prod(inner):
            found = converted(f"input '{single.name}'", single.datatype, rows.ravel())
            shape = (len(rows), *inner)
            return *plan.assemble([Tensor(single.name, None, shape, found)]), None
        return *plan.assemble(_tensors(plan, data)), None

    return decode


def _tensors(plan: InputPlan, data: bytes) -> list[Tensor]:
    rows: list[dict[str, Value]] = []
    for number, frame in enumerate(_frames(data)):
        try:
            found = record.features(frame)
        except MalformedBody as error:
            raise MalformedBody(f"record {number}: {error.message}") from None
        if plan.single is not None and "values" in found and "values" not in plan.index:
            found[plan.single.name] = found.pop("values")
        for name in found:
            if name not in plan.index:
                expected = plan.names() if plan.single is None else f"'values' or {plan.names()}"
                raise InvalidInput(f"record {number} has the feature '{name[:64]}'; expected: {expected}")
        for name in plan.index:
            if name not in found:
                alias = "" if plan.single is None else " (or 'values')"
                raise InvalidInput(f"record {number} has no feature '{name}'{alias}")
        rows.append(found)
    if not rows:
        raise MalformedBody("the body is empty; RecordIO frames of protobuf records were expected")
    if not plan.batched and len(rows) > 1:
        raise InvalidInput(f"the body has {len(rows)} records; model '{plan.model_name}' is not batched and takes one")
    return [_tensor(plan, tensor, [row[tensor.name] for row in rows]) for tensor in plan.spec.inputs]


def _tensor(plan: InputPlan, tensor: TensorSpec, rows: list[Value]) -> Tensor:
    """One input of all records. Raises `InvalidInput`."""
    label = f"input '{tensor.name}'"
    shapes = [_shape(f"{label}, record {i}", plan.inner(tensor), value) for i, value in enumerate(rows)]
    if (odd := next((i for i, shape in enumerate(shapes) if shape != shapes[0]), None)) is not None:
        raise InvalidInput(f"{label}: record {odd} has shape {dims(shapes[odd])} where record 0 has {dims(shapes[0])}")
    shape = (len(rows), *shapes[0]) if plan.batched else shapes[0]
    plan.check_shape(plan.index[tensor.name], shape)
    data: Column
    if tensor.datatype == BYTES:
        data = []
        for i, value in enumerate(rows):
            if not isinstance(value.values, list):
                raise InvalidInput(f"{label}: record {i} has {value.kind}; bytes were expected for BYTES")
            data += value.values
        return Tensor(tensor.name, None, shape, data)
    filled = [i for i, value in enumerate(rows) if len(value.keys) or len(value.values) != prod(shapes[i])]
    sparse.check_size(tensor, len(filled), prod(shapes[0]))
    rest = sparse.left_out(plan, tensor)
    parts: list[Array] = []
    for i, value in enumerate(rows):
        if isinstance(value.values, list):
            raise InvalidInput(f"{label}: record {i} has bytes; numbers were expected for {tensor.datatype}")
        parts.append(value.values)
    for i in filled:
        parts[i] = _filled(f"{label}: record {i}", rows[i].keys, parts[i], prod(shapes[i]), rest)
    return Tensor(tensor.name, None, shape, converted(label, tensor.datatype, np.concatenate(parts)))


def _shape(label: str, inner: tuple[int, ...], value: Value) -> tuple[int, ...]:
    """The shape of one row: what the record says where that has its rank, else the model's own."""
    if value.shape and len(value.shape) == len(inner):
        return value.shape
    given = prod(value.shape) if value.shape else len(value.values)
    if not value.shape and len(value.keys):
        given = prod(inner) if min(inner, default=0) >= 0 else int(value.keys.max()) + 1
    if inner.count(-1) == 1 and given % (rest := -prod(inner) or 1) == 0:
        return tuple(given // rest if dim < 0 else dim for dim in inner)
    if min(inner, default=0) >= 0 and given == prod(inner):
        return inner
    raise InvalidInput(f"{label} has {given} values; a row of shape {dims(inner)} was expected")


def _filled(label: str, keys: Array, values: Array, size: int, rest: float) -> Array:
    """A flat row of which only some values were given, with `rest` for the others."""
    if len(keys) != len(values):
        raise InvalidInput(f"{label} has {len(values)} values and {len(keys)} keys; a row has {size} values")
    if len(keys) and (last := int(keys.max())) >= size:
        raise InvalidInput(f"{label} has key {last}; a row has {size} values, 0 to {size - 1}")
    if len(np.unique(keys)) != len(keys):
        raise InvalidInput(f"{label} has a key twice")
    row: Array = np.full(size, rest, values.dtype if values.dtype.kind == "f" or not rest else np.float64)
    row[keys.astype(np.int64)] = values
    return row


def _frames(data: bytes) -> Iterator[bytes]:
    """The content of each frame; one that was parted at the magic number is put together again."""
    at, end = 0, len(data)
    parts: list[bytes] = []
    while at < end:
        if end - at < _FRAME.size:
            raise MalformedBody(f"the frame at byte {at} is cut off: {end - at} bytes are left, its head has 8")
        magic, word = _FRAME.unpack_from(data, at)
        if magic != MAGIC:
            raise MalformedBody(
                f"there is no RecordIO frame at byte {at}: the magic number is {magic:#010x}, not {MAGIC:#010x}"
            )
        part, length = word >> _LENGTH_BITS, word & ((1 << _LENGTH_BITS) - 1)
        start = at + _FRAME.size
        if start + length > end:
            raise MalformedBody(f"the frame at byte {at} says {length} bytes; {end - start} are left in the body")
        if part > _LAST or (part in {_WHOLE, _FIRST}) is bool(parts):
            raise MalformedBody(f"the frame at byte {at} is part {part} of a record, out of its order")
        parts.append(data[start : start + length])
        if part in {_WHOLE, _LAST}:
            yield parts[0] if len(parts) == 1 else MAGIC.to_bytes(4, "little").join(parts)
            parts = []
        # The last frame of some writers lacks its padding.
        at = start + length + -length % 4
    if parts:
        raise MalformedBody("the last record is not complete: its last part is missing")


def _alike(data: bytes, inner: tuple[int, ...]) -> Array | None:
    """The rows of records that differ in nothing but their floats, as they mostly do; None for any others.

    A shape that they say and that has the rank of `inner` is `inner`.
    """
    if len(data) < _FRAME.size or data[:4] != MAGIC.to_bytes(4, "little"):
        return None
    length = int.from_bytes(data[4:8], "little")
    size = _FRAME.size + length + -length % 4
    if length >> _LENGTH_BITS or len(data) % size:
        return None
    try:
        found = record.features(data[_FRAME.size : _FRAME.size + length])
    except MalformedBody:
        return None
    value = found.get("values")
    if len(found) != 1 or value is None or isinstance(value.values, list) or value.values.dtype.kind != "f":
        return None
    values = value.values
    if len(value.keys) or (value.shape and prod(value.shape) != len(values)):
        return None
    if len(value.shape) == len(inner) and value.shape != inner:
        return None
    first = values.tobytes()
    at = data.find(first)
    if not first or at < 0 or data.find(first, at + 1, size) >= 0:
        return None
    frames = np.frombuffer(data, np.uint8).reshape(-1, size)
    if (frames[:, :at] != frames[0, :at]).any() or (frames[:, at + len(first) :] != frames[0, at + len(first) :]).any():
        return None
    return np.ascontiguousarray(frames[:, at : at + len(first)]).view(values.dtype)


def encoder(spec: ModelSpec) -> Encode:
    """Encoder of all outputs; raises `NotAcceptable` for whole numbers over 32 bits, which a record cannot carry.

    By the convention `predictions` all numbers are float32.
    """
    narrow = spec.conventions.predictions

    def encode(arrays: Sequence[Array], asked: Asked | None) -> Encoded:
        rows = len(arrays[0]) if spec.batched else 1
        columns = [
            _entries(output, array if spec.batched else array[None], narrow=narrow)
            for output, array in zip(spec.outputs, arrays, strict=True)
        ]
        return HEADER, b"".join([_framed(b"".join([column[row] for column in columns])) for row in range(rows)])

    return encode


def _entries(output: TensorSpec, array: Array, *, narrow: bool) -> list[bytes]:
    """The map entry of each row."""
    shape = array.shape[1:] if array.ndim > 2 else ()
    flat = array.reshape(len(array), -1)
    if flat.dtype.kind in "OSU":
        return [record.label_strings(output.name, [element(value) for value in row]) for row in flat.tolist()]
    if flat.dtype.kind in "iub" and not narrow:
        limits = np.iinfo(np.int32)
        if flat.size and (flat.min() < limits.min or flat.max() > limits.max):
            raise NotAcceptable(
                f"output '{output.name}' has values over 32 bits, which a record cannot carry; ask for JSON"
            )
        flat = flat.astype(np.int32)
    elif flat.dtype != np.float64 or narrow:
        flat = flat.astype(np.float32)
    return [record.label_entry(output.name, row, shape) for row in flat]


def _framed(data: bytes) -> bytes:
    return b"%b%b%b" % (_FRAME.pack(MAGIC, len(data)), data, _PADDING[len(data) % 4])
