"""The protobuf message `aialgs.data.Record`, read and written by hand: no maintained library carries its schema.

    Record { map<string, Value> features = 1; map<string, Value> label = 2; ... }
    Value  { oneof { Float32Tensor = 2; Float64Tensor = 3; Int32Tensor = 7; Bytes = 9 } }
    ...Tensor { repeated values = 1; repeated uint64 keys = 2; repeated uint64 shape = 3 }   Bytes { repeated bytes = 1 }

Repeated numbers are packed or not, unknown fields are skipped, of two entries of a map with one key the last one counts.
Sources: Protocol Buffers encoding; SageMaker, "Common data formats for training" (the schema).
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, Final, NamedTuple

import numpy as np

from serving.contract import Array
from serving.errors import MalformedBody

_VARINT, _FIXED64, _BYTES, _FIXED32 = 0, 1, 2, 5
_FEATURES, _LABEL = 1, 2
_BYTES_VALUE: Final = 9
_TENSORS: Final[dict[int, np.dtype[Any]]] = {2: np.dtype("<f4"), 3: np.dtype("<f8"), 7: np.dtype("<i4")}
_FIELD_OF: Final = {dtype: number for number, dtype in _TENSORS.items()}
_NAMES: Final = {2: "float32_tensor", 3: "float64_tensor", 7: "int32_tensor", 9: "bytes"}
_WORD: Final = 1 << 64


class Value(NamedTuple):
    """One entry of a record's features: numbers float32, float64 or int32 [n], or byte strings.

    `keys` uint64[n] says where each number stands in a flat row, where not all are given; `shape` is that of the whole.
    """

    kind: str
    values: Array | list[bytes]
    keys: Array
    shape: tuple[int, ...]


def features(data: bytes) -> dict[str, Value]:
    """The features of a serialised record. Raises `MalformedBody`."""
    found: dict[str, Value] = {}
    for number, wire, content in _fields(data, "the record"):
        if number == _FEATURES:
            key, value = "", b""
            for inner, inner_wire, part in _fields(_message(content, wire, "a feature"), "a feature"):
                if inner == 1:
                    key = _message(part, inner_wire, "a feature's name").decode("utf-8", "replace")
                elif inner == 2:
                    value = _message(part, inner_wire, "a feature's value")
            found[key] = _value(value, f"the feature '{key[:64]}'")
    return found


def _value(data: bytes, label: str) -> Value:
    found: Value | None = None
    for number, wire, content in _fields(data, label):
        if number not in _NAMES:
            continue
        if found is not None:
            raise MalformedBody(f"{label} has both {found.kind} and {_NAMES[number]}; one was expected")
        message = _message(content, wire, label)
        if number == _BYTES_VALUE:
            strings = [_message(part, inner, label) for field, inner, part in _fields(message, label) if field == 1]
            found = Value(_NAMES[number], strings, np.empty(0, np.uint64), ())
        else:
            found = _tensor(message, number, label)
    if found is None:
        raise MalformedBody(f"{label} is empty; {', '.join(_NAMES.values())} were expected")
    return found


def _tensor(data: bytes, kind: int, label: str) -> Value:
    label = f"{_NAMES[kind]} of {label}"
    dtype = _TENSORS[kind]
    values: list[Array] = []
    keys: list[Array] = []
    shape: list[Array] = []
    for number, wire, content in _fields(data, label):
        if number == 1 and dtype.kind == "f":
            if wire not in {_BYTES, _FIXED32 if dtype.itemsize == 4 else _FIXED64}:
                raise MalformedBody(f"{label} has values of wire type {wire}, which are no {dtype.name}")
            if len(content) % dtype.itemsize:
                raise MalformedBody(f"{label} has {len(content)} bytes of values, which are no whole {dtype.name}s")
            values.append(np.frombuffer(content, dtype))
        elif number in {1, 2, 3}:
            if wire not in {_VARINT, _BYTES}:
                raise MalformedBody(f"{label} has whole numbers of wire type {wire}")
            (values, keys, shape)[number - 1].append(_varints(content, label))
    found = _joined(values, dtype if dtype.kind == "f" else np.dtype(np.uint64))
    if dtype.kind == "i":
        # Negative numbers come sign-extended to 64 bits; an int32 is the lower half, whatever the rest says.
        found = found.astype(np.uint32).view(np.int32)
    return Value(
        _NAMES[kind], found, _joined(keys, np.dtype(np.uint64)), tuple(_joined(shape, np.dtype(np.uint64)).tolist())
    )


def _joined(parts: list[Array], dtype: np.dtype[Any]) -> Array:
    return parts[0] if len(parts) == 1 else np.concatenate([np.empty(0, dtype), *parts])


def _varints(content: bytes, label: str) -> Array:
    data = np.frombuffer(content, np.uint8)
    if (data < 0x80).all():
        return data.astype(np.uint64)
    found = []
    at = 0
    while at < len(content):
        number, at = _varint(content, at, label)
        found.append(number)
    return np.array(found, np.uint64)


def _message(content: bytes, wire: int, label: str) -> bytes:
    if wire != _BYTES:
        raise MalformedBody(f"{label} has wire type {wire}; {_BYTES} (bytes) was expected")
    return content


def _fields(data: bytes, label: str) -> Iterator[tuple[int, int, bytes]]:
    """Number, wire type and content of each field; the content of a number is its bytes as they came."""
    at, end = 0, len(data)
    while at < end:
        tag, at = _varint(data, at, label)
        number, wire = tag >> 3, tag & 7
        start = at
        if wire == _VARINT:
            _, at = _varint(data, at, label)
        elif wire == _BYTES:
            size, start = _varint(data, at, label)
            at = start + size
        elif wire in {_FIXED64, _FIXED32}:
            at += 8 if wire == _FIXED64 else 4
        else:
            raise MalformedBody(f"{label} has the wire type {wire} at byte {start}, which is none of protobuf's")
        if at > end or number == 0:
            what = "field number 0" if number == 0 else f"a field that says {at - start} bytes, {end - start} are left"
            raise MalformedBody(f"{label} has {what} at byte {start}: it is no protobuf message, or cut off")
        yield number, wire, data[start:at]


def _varint(data: bytes, at: int, label: str) -> tuple[int, int]:
    """The number at a place, modulo 2**64, and where it ends."""
    found = shift = 0
    for place in range(at, min(at + 10, len(data))):
        byte = data[place]
        found |= (byte & 0x7F) << shift
        if byte < 0x80:
            return found % _WORD, place + 1
        shift += 7
    raise MalformedBody(f"{label} has a number at byte {at} that does not end: it is no protobuf message, or cut off")


# ---------------------------------------------------------------- writing


def label_entry(name: str, values: Array, shape: tuple[int, ...]) -> bytes:
    """The map entry of `Record.label`: flat numbers float32, float64 or int32, with a shape where it is not ()."""
    number = _FIELD_OF[values.dtype]
    data = values.tobytes() if values.dtype.kind == "f" else b"".join([_encoded(value) for value in values.tolist()])
    tensor = _field(1, data)
    if shape:
        tensor += _field(3, b"".join(map(_encoded, shape)))
    return _field(_LABEL, _field(1, name.encode()) + _field(2, _field(number, tensor)))


def label_strings(name: str, strings: list[bytes]) -> bytes:
    """The map entry of `Record.label` for byte strings."""
    value = b"".join([_field(1, string) for string in strings])
    return _field(_LABEL, _field(1, name.encode()) + _field(2, _field(_BYTES_VALUE, value)))


def _field(number: int, content: bytes) -> bytes:
    return b"%c%b%b" % (number << 3 | _BYTES, _encoded(len(content)), content)


def _encoded(value: int) -> bytes:
    """A varint; negative numbers sign-extended to 64 bits."""
    value %= _WORD
    found = bytearray()
    while value > 0x7F:
        found.append(value & 0x7F | 0x80)
        value >>= 7
    found.append(value)
    return bytes(found)
