"""Records as protobuf itself writes them, from the published schema: independent of our own reader and writer."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from google.protobuf import descriptor_pb2, descriptor_pool, message_factory

from serving.codecs.recordio import MAGIC

FIELD = descriptor_pb2.FieldDescriptorProto
TENSORS = {
    "Float32Tensor": FIELD.TYPE_FLOAT,
    "Float64Tensor": FIELD.TYPE_DOUBLE,
    "Int32Tensor": FIELD.TYPE_INT32,
}


def _message(file: Any, name: str, *fields: tuple[str, int, int, int, str]) -> Any:
    message = file.message_type.add(name=name)
    for field, number, label, kind, type_name in fields:
        added = message.field.add(name=field, number=number, label=label, type=kind)
        if type_name:
            added.type_name = f".aialgs.data.{type_name}"
        elif label == FIELD.LABEL_REPEATED and kind not in (FIELD.TYPE_BYTES, FIELD.TYPE_MESSAGE):
            added.options.packed = True
    return message


def _record_class() -> Any:
    many, one = FIELD.LABEL_REPEATED, FIELD.LABEL_OPTIONAL
    file = descriptor_pb2.FileDescriptorProto(name="record.proto", package="aialgs.data", syntax="proto2")
    for name, kind in TENSORS.items():
        _message(
            file,
            name,
            ("values", 1, many, kind, ""),
            ("keys", 2, many, FIELD.TYPE_UINT64, ""),
            ("shape", 3, many, FIELD.TYPE_UINT64, ""),
        )
    _message(file, "Bytes", ("value", 1, many, FIELD.TYPE_BYTES, ""), ("content_type", 2, one, FIELD.TYPE_STRING, ""))
    value = _message(
        file,
        "Value",
        ("float32_tensor", 2, one, FIELD.TYPE_MESSAGE, "Float32Tensor"),
        ("float64_tensor", 3, one, FIELD.TYPE_MESSAGE, "Float64Tensor"),
        ("int32_tensor", 7, one, FIELD.TYPE_MESSAGE, "Int32Tensor"),
        ("bytes", 9, one, FIELD.TYPE_MESSAGE, "Bytes"),
    )
    value.oneof_decl.add(name="value")
    for field in value.field:
        field.oneof_index = 0
    record = _message(
        file,
        "Record",
        ("features", 1, many, FIELD.TYPE_MESSAGE, "Record.FeaturesEntry"),
        ("label", 2, many, FIELD.TYPE_MESSAGE, "Record.LabelEntry"),
        ("uid", 3, one, FIELD.TYPE_STRING, ""),
    )
    for entry in ("FeaturesEntry", "LabelEntry"):
        nested = record.nested_type.add(name=entry)
        nested.options.map_entry = True
        nested.field.add(name="key", number=1, label=one, type=FIELD.TYPE_STRING)
        nested.field.add(name="value", number=2, label=one, type=FIELD.TYPE_MESSAGE, type_name=".aialgs.data.Value")
    pool = descriptor_pool.DescriptorPool()
    pool.Add(file)
    return message_factory.GetMessageClass(pool.FindMessageTypeByName("aialgs.data.Record"))


Record = _record_class()


def record(kind: str, values: Any, keys: Any = (), shape: Any = (), name: str = "values", **more: Any) -> Any:
    """A record with one feature; `more` are features of float32 by name."""
    found = Record()
    _fill(found.features[name], kind, values, keys, shape)
    for other, numbers in more.items():
        _fill(found.features[other], "float32_tensor", numbers, (), ())
    return found


def _fill(value: Any, kind: str, values: Any, keys: Any, shape: Any) -> None:
    if kind == "bytes":
        value.bytes.value.extend(values)
        return
    tensor = getattr(value, kind)
    tensor.SetInParent()
    tensor.values.extend(values)
    tensor.keys.extend(keys)
    tensor.shape.extend(shape)


def frame(data: bytes, part: int = 0) -> bytes:
    """A RecordIO frame."""
    return MAGIC.to_bytes(4, "little") + (part << 29 | len(data)).to_bytes(4, "little") + data + bytes(-len(data) % 4)


def frames(records: Iterable[Any]) -> bytes:
    """Records, each in its frame."""
    return b"".join(frame(found.SerializeToString()) for found in records)


def read(body: bytes) -> list[Any]:
    """The records of a body."""
    found = []
    at = 0
    while at < len(body):
        assert int.from_bytes(body[at : at + 4], "little") == MAGIC
        length = int.from_bytes(body[at + 4 : at + 8], "little")
        found.append(Record.FromString(body[at + 8 : at + 8 + length]))
        at += 8 + length + -length % 4
        assert at <= len(body)
    return found
