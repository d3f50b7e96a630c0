"""`application/vnd.apache.arrow.stream`: tensors as the columns of an Arrow IPC stream (extra `arrow`).

A column by input name holds a row of the input in each of its cells: a number, or a list (of fixed size or not, nested
for more dimensions). A model of one input [N, k] also takes k columns of numbers: by the input's `features` in any order,
or in their own order where it has none. Numbers of another type are taken as `application/x-npy` takes them. Nulls are
NaN for a model of the convention `missing`, and refused by others. Columns of the input's own type are not copied where
one record batch holds them all. Answers have one column an output.
Sources: Apache Arrow columnar format (IPC streaming format); FlatBuffers internals (tables and vtables).
"""

from __future__ import annotations

import importlib
import struct
from collections.abc import Sequence
from functools import cache
from importlib.util import find_spec
from typing import Any, Final

import numpy as np

from serving.codecs.base import Asked, Buffer, Column, Decode, Decoded, Encode, Encoded
from serving.codecs.npy import converted
from serving.codecs.plan import InputPlan, Tensor
from serving.codecs.raw import element
from serving.codecs.values import dims
from serving.contract import Array, ModelSpec, TensorSpec
from serving.datatypes import BYTES, FLOATS, NUMPY
from serving.errors import InvalidInput, MalformedBody, MissingExtra, NotAcceptable

MEDIA_TYPE: Final = "application/vnd.apache.arrow.stream"
HEADER: Final = b"content-type: application/vnd.apache.arrow.stream\r\n"

_FILE_MAGIC: Final = b"ARROW1"
_HEADER_FIELD, _COMPRESSION_FIELD = 2, 3
_SHOWN_COLUMNS: Final = 8


def library() -> Any:
    """pyarrow. Raises `MissingExtra`."""
    try:
        return importlib.import_module("pyarrow")
    except ImportError as error:
        raise MissingExtra(
            f"{MEDIA_TYPE} is read and written with pyarrow, which cannot be imported ({error}):"
            " pip install 'serving[arrow]'"
        ) from error


@cache
def installed() -> bool:
    """Whether pyarrow is there to be imported."""
    return find_spec("pyarrow") is not None


def decoder(plan: InputPlan) -> Decode:
    """Decoder for any model; one that is not batched takes one row. Raises `MissingExtra`."""
    reader = _Reader(plan, library())

    def decode(body: Buffer) -> Decoded:
        return *plan.assemble(reader.tensors(body)), None

    return decode


class _Reader:
    """Reads streams for one model."""

    def __init__(self, plan: InputPlan, pa: Any) -> None:
        self._plan = plan
        self._pa = pa
        self._ipc = importlib.import_module("pyarrow.ipc")
        self._faults = (
            pa.ArrowException,
            OSError,
            EOFError,
            ValueError,
            KeyError,
            NotImplementedError,
            MemoryError,
            struct.error,
        )

    def tensors(self, body: Buffer) -> list[Tensor]:
        """The inputs that a stream holds. Raises `MalformedBody` or `InvalidInput`."""
        try:
            return self._tensors(self._columns(body))
        except self._faults as error:
            raise MalformedBody(f"the body is not an Arrow IPC stream: {str(error)[:200]}") from None

    def _tensors(self, columns: dict[str, list[Any]]) -> list[Tensor]:
        plan = self._plan
        single = plan.single
        if single is None or (len(columns) == 1 and (single.name in columns or not single.features)):
            if single is not None and single.name not in columns:
                columns = {single.name: next(iter(columns.values()))}
            return [self._tensor(plan.spec.inputs[plan.find(name)], chunks) for name, chunks in columns.items()]
        if len(single.shape) != 2 or not plan.batched:
            names = ", ".join(f"'{name[:64]}'" for name in list(columns)[:_SHOWN_COLUMNS])
            raise InvalidInput(f"the stream has the columns {names}; one column '{single.name}' was expected")
        return [self._features(single, columns)]

    def _columns(self, body: Buffer) -> dict[str, list[Any]]:
        """The chunks of each column."""
        if not len(body):
            raise MalformedBody("the body is empty; an Arrow IPC stream was expected")
        if bytes(body[:6]) == _FILE_MAGIC:
            raise MalformedBody("the body is an Arrow file; an Arrow IPC stream was expected (pyarrow.ipc.new_stream)")
        ipc = self._ipc
        messages = ipc.MessageReader.open_stream(self._pa.py_buffer(body))
        first = next(messages, None)
        if first is None:
            raise MalformedBody("the body is not an Arrow IPC stream: it ends where its schema was expected")
        if first.type != "schema":
            raise MalformedBody(f"the stream begins with a {first.type}; a schema was expected")
        schema = ipc.read_schema(first)
        batches = []
        for message in messages:
            if message.type != "record batch":
                raise InvalidInput(f"the stream holds a {message.type}; plain record batches are read")
            if _is_compressed(bytes(message.metadata)):
                raise InvalidInput("the stream's buffers are compressed; send them plain (or the body with gzip)")
            batch = ipc.read_record_batch(message, schema)
            batch.validate(full=True)
            batches.append(batch)
        names = schema.names
        if not names or not sum(batch.num_rows for batch in batches):
            raise InvalidInput(
                f"the stream has {len(names)} columns and no rows; at least one row of {self._plan.names()} was expected"
            )
        if twice := next((name for i, name in enumerate(names) if name in names[:i]), None):
            raise InvalidInput(f"the stream has the column '{twice[:64]}' twice")
        batches = [batch for batch in batches if batch.num_rows]
        return {name: [batch.column(i) for batch in batches] for i, name in enumerate(names)}

    def _features(self, tensor: TensorSpec, columns: dict[str, list[Any]]) -> Tensor:
        """A column for each feature."""
        label = f"input '{tensor.name}'"
        names = tensor.features or tuple(columns)
        expected = ", ".join(f"'{name}'" for name in names[:_SHOWN_COLUMNS]) + ", ..." * (len(names) > _SHOWN_COLUMNS)
        for name in columns:
            if name not in names:
                raise InvalidInput(f"{label} has no feature '{name[:64]}'; its features: {expected}")
        for name in names:
            if name not in columns:
                raise InvalidInput(f"{label}: the stream has no column '{name[:64]}'; expected: {expected}")
        rows = sum(len(chunk) for chunk in columns[names[0]])
        shape = (rows, len(names))
        self._plan.check_shape(0, shape)
        if tensor.datatype == BYTES:
            strings = [self._flat(tensor, name, columns[name]) for name in names]
            return Tensor(tensor.name, None, shape, [value for row in zip(*strings, strict=True) for value in row])
        found: Array = np.empty(shape, NUMPY[tensor.datatype])
        for i, name in enumerate(names):
            data: Any = self._flat(tensor, name, columns[name])
            found[:, i] = np.frombuffer(data, found.dtype)
        return Tensor(tensor.name, None, shape, found.tobytes())

    def _flat(self, tensor: TensorSpec, name: str, chunks: list[Any]) -> Column:
        shape, data = self._values(tensor, f"input '{tensor.name}', column '{name[:64]}'", chunks)
        if len(shape) != 1:
            raise InvalidInput(f"input '{tensor.name}', column '{name[:64]}' holds lists; numbers were expected")
        return data

    def _tensor(self, tensor: TensorSpec, chunks: list[Any]) -> Tensor:
        """A column that holds a whole input."""
        shape, data = self._values(tensor, f"input '{tensor.name}'", chunks)
        if not self._plan.batched:
            if shape[0] != 1:
                raise InvalidInput(
                    f"input '{tensor.name}' has {shape[0]} rows; model '{self._plan.model_name}' is not batched and takes one"
                )
            shape = shape[1:]
        elif len(shape) == 1 and all(dim == 1 for dim in tensor.shape[1:]):
            shape = (*shape, *tensor.shape[1:])
        return Tensor(tensor.name, None, shape, data)

    def _values(self, tensor: TensorSpec, label: str, chunks: list[Any]) -> tuple[tuple[int, ...], Column]:
        shapes, parts = [], []
        for chunk in chunks:
            shape, flat = self._nested(tensor, label, chunk)
            shapes.append(shape)
            parts.append(flat)
        if odd := [shape for shape in shapes if shape[1:] != shapes[0][1:]]:
            raise InvalidInput(
                f"{label} is ragged: rows of shape {dims(odd[0][1:])} follow rows of {dims(shapes[0][1:])}"
            )
        shape = (sum(shape[0] for shape in shapes), *shapes[0][1:])
        if tensor.datatype == BYTES:
            return shape, [value for part in parts for value in part]
        flat = parts[0] if len(parts) == 1 else np.concatenate(parts)
        if flat.dtype == NUMPY[tensor.datatype]:
            view: Any = flat.view(np.uint8)
            return shape, memoryview(view)
        return shape, converted(label, tensor.datatype, flat)

    def _nested(self, tensor: TensorSpec, label: str, values: Any) -> tuple[tuple[int, ...], Any]:
        """Shape and flat elements of one chunk: an array, or a list of bytes."""
        types = self._pa.types
        shape: tuple[int, ...] = (len(values),)
        while True:
            if isinstance(values.type, self._pa.BaseExtensionType):
                values = values.storage
            kind = values.type
            fixed = types.is_fixed_size_list(kind)
            if not (fixed or types.is_list(kind) or types.is_large_list(kind)):
                break
            if values.null_count:
                raise InvalidInput(f"{label} has a null where a list was expected, at {_first_null(values)}")
            if fixed:
                size = kind.list_size
            else:
                sizes = np.diff(values.offsets.to_numpy())
                size = int(sizes[0]) if sizes.size else 0
                if (sizes != size).any():
                    at = int(np.argmax(sizes != size))
                    raise InvalidInput(
                        f"{label} is ragged: list {at} has {int(sizes[at])} elements where list 0 has {size}"
                    )
            values = values.flatten()
            shape = (*shape, size)
        return shape, self._elements(tensor, label, values)

    def _elements(self, tensor: TensorSpec, label: str, values: Any) -> Any:
        types = self._pa.types
        kind = values.type
        text = types.is_string(kind) or types.is_large_string(kind)
        if text or types.is_binary(kind) or types.is_large_binary(kind):
            if tensor.datatype != BYTES:
                raise InvalidInput(f"{label} has type {kind}; {tensor.datatype} was expected")
            if values.null_count:
                raise InvalidInput(f"{label} has a null at {_first_null(values)}; BYTES takes strings and bytes")
            return [value.encode() if text else value for value in values.to_pylist()]
        if tensor.datatype == BYTES or not (
            types.is_integer(kind) or types.is_floating(kind) or types.is_boolean(kind)
        ):
            raise InvalidInput(f"{label} has type {str(kind)[:64]}; {tensor.datatype} was expected")
        missing = self._plan.spec.conventions.missing and tensor.datatype in FLOATS and not types.is_boolean(kind)
        if values.null_count and not missing:
            raise InvalidInput(f"{label} has a null at {_first_null(values)}; {tensor.datatype} was expected")
        # Null becomes NaN, and whole numbers with it float64.
        return values.to_numpy(zero_copy_only=False)


def _first_null(values: Any) -> int:
    return int(np.argmax(values.is_null().to_numpy(zero_copy_only=False)))


def _is_compressed(metadata: bytes) -> bool:
    """Whether a record batch's message says that its buffers are compressed: what they grow to is in nobody's hand.

    The message is a FlatBuffers table that pyarrow has verified; `header` is its third field, and `compression` the
    fourth of the record batch that this holds.
    """
    (root,) = struct.unpack_from("<I", metadata)
    header = _field(metadata, root, _HEADER_FIELD)
    if header is None:
        return False
    (offset,) = struct.unpack_from("<I", metadata, header)
    return _field(metadata, header + offset, _COMPRESSION_FIELD) is not None


def _field(data: bytes, table: int, number: int) -> int | None:
    """Where a field of a FlatBuffers table lies; None where it has its default."""
    (back,) = struct.unpack_from("<i", data, table)
    vtable = table - back
    (size,) = struct.unpack_from("<H", data, vtable)
    place = 4 + 2 * number
    if place + 2 > size:
        return None
    (offset,) = struct.unpack_from("<H", data, vtable + place)
    return table + offset if offset else None


def encoder(spec: ModelSpec) -> Encode:
    """Encoder of all outputs; BF16 is written as the float32 of equal value. Raises `MissingExtra`."""
    pa = library()
    ipc = importlib.import_module("pyarrow.ipc")
    names = [output.name for output in spec.outputs]

    def encode(arrays: Sequence[Array], asked: Asked | None) -> Encoded:
        columns = [
            _column(pa, name, array if spec.batched else array[None]) for name, array in zip(names, arrays, strict=True)
        ]
        batch = pa.record_batch(columns, names=names)
        sink = pa.BufferOutputStream()
        with ipc.new_stream(sink, batch.schema) as writer:
            writer.write_batch(batch)
        return HEADER, sink.getvalue().to_pybytes()

    return encode


def _column(pa: Any, name: str, array: Array) -> Any:
    """An output as a column: numbers, or lists of fixed size."""
    if array.size == 0:
        raise NotAcceptable(
            f"output '{name}' has shape {dims(array.shape)}, of which Arrow makes no column; ask for JSON"
        )
    flat = np.ascontiguousarray(array).ravel()
    if flat.dtype.kind in "OSU":
        values = pa.array([element(value) for value in flat.tolist()], pa.binary())
    else:
        values = pa.array(flat.astype(np.float32) if flat.dtype.kind == "V" else flat)
    for size in reversed(array.shape[1:]):
        values = pa.FixedSizeListArray.from_arrays(values, size)
    return values
