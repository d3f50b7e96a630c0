"""Open Inference Protocol v2 answers: JSON, and JSON followed by the raw bytes of the outputs asked for in binary.

Sources: Open Inference Protocol, inference response JSON object; Triton's binary data and classification extensions.
"""

from __future__ import annotations

from collections.abc import Sequence
from math import prod
from typing import Any, Final, NamedTuple

import numpy as np
import orjson

from serving.codecs.arrays import is_utf8, json_text
from serving.codecs.base import Asked, Encode, Encoded, RequestedOutput
from serving.codecs.bulk import ELEMENTS
from serving.codecs.raw import tensor_bytes
from serving.contract import Array, ModelSpec, TensorSpec
from serving.datatypes import BYTES, item_bytes
from serving.errors import NotAcceptable

JSON_HEADER: Final = b"content-type: application/json\r\n"
_BINARY_HEADER: Final = b"content-type: application/octet-stream\r\ninference-header-content-length: %d\r\n"
_MEMO_ENTRIES: Final = 256


class _Output(NamedTuple):
    """An output as v2 writes it, its name and datatype already in JSON text."""

    spec: TensorSpec
    position: int
    head: bytes
    classes_head: bytes


def encoder(spec: ModelSpec, model_name: str, version: str) -> Encode:
    """Encoder of v2 answers; raises `NotAcceptable` for BYTES that JSON cannot carry."""
    outputs = {output.name: _output(output, i) for i, output in enumerate(spec.outputs)}
    start = b'{"model_name":%b,"model_version":%b,' % (orjson.dumps(model_name), orjson.dumps(version))
    start_outputs = start + b'"outputs":['
    first = outputs[spec.outputs[0].name]
    first_start = start_outputs + first.head
    plain = len(outputs) == 1 and first.spec.datatype not in {BYTES, "BF16"}
    dumps = orjson.dumps
    option = orjson.OPT_SERIALIZE_NUMPY

    item = item_bytes(first.spec.datatype)
    json_starts: dict[tuple[int, ...], bytes] = {}
    binary_starts: dict[tuple[int, ...], tuple[bytes, bytes]] = {}

    def json_start(shape: tuple[int, ...]) -> bytes:
        if len(json_starts) >= _MEMO_ENTRIES:
            json_starts.clear()
        found = json_starts[shape] = b'%b%b],"data":' % (first_start, _dims(shape))
        return found

    def binary_start(shape: tuple[int, ...]) -> tuple[bytes, bytes]:
        if len(binary_starts) >= _MEMO_ENTRIES:
            binary_starts.clear()
        size = prod(shape) * item
        body = b'%b%b],"parameters":{"binary_data_size":%d}}]}' % (first_start, _dims(shape), size)
        found = binary_starts[shape] = (_BINARY_HEADER % len(body), body)
        return found

    def encode(arrays: Sequence[Array], asked: Asked | None) -> Encoded:
        if plain and (asked is None or asked.id is None):
            wanted = asked.outputs if asked is not None else ()
            binary = asked is not None and asked.binary_output
            if wanted:
                if wanted[0].classification:
                    return strict(arrays, asked)
                binary = wanted[0].binary
            array = arrays[0]
            shape = array.shape
            if binary:
                header, start_binary = binary_starts.get(shape) or binary_start(shape)
                return header, start_binary + array.tobytes()
            if array.size < ELEMENTS:
                text = dumps(array.ravel(), option=option)
                return JSON_HEADER, (json_starts.get(shape) or json_start(shape)) + text + b"}]}"
        return strict(arrays, asked)

    def strict(arrays: Sequence[Array], asked: Asked | None) -> Encoded:
        wanted: Sequence[RequestedOutput] = ()
        if asked is not None:
            wanted = asked.outputs or [RequestedOutput(name, asked.binary_output) for name in outputs]
        else:
            wanted = [RequestedOutput(name) for name in outputs]
        texts, tails = [], []
        for want in wanted:
            text, tail = written(outputs[want.name], arrays, want)
            texts.append(text)
            if tail is not None:
                tails.append(tail)
        identity = b"" if asked is None or asked.id is None else b'"id":%b,' % orjson.dumps(asked.id)
        body = b'%b%b"outputs":[%b]}' % (start, identity, b",".join(texts))
        if not tails:
            return JSON_HEADER, body
        return _BINARY_HEADER % len(body), b"".join((body, *tails))

    def written(output: _Output, arrays: Sequence[Array], want: RequestedOutput) -> tuple[bytes, bytes | None]:
        array, datatype, head = arrays[output.position], output.spec.datatype, output.head
        if want.classification:
            array = classes(array, want.classification, output.spec.labels, batched=spec.batched)
            datatype, head = BYTES, output.classes_head
        shape = _dims(array.shape)
        if want.binary:
            tail = tensor_bytes(array, datatype)
            return b'%b%b],"parameters":{"binary_data_size":%d}}' % (head, shape, len(tail)), tail
        if datatype == BYTES and not is_utf8(array):
            raise NotAcceptable(f"output '{want.name}' holds bytes that are not UTF-8; ask for it as binary_data")
        return b'%b%b],"data":%b}' % (head, shape, json_text(array.reshape(-1))), None

    return encode


def _dims(shape: Sequence[int]) -> bytes:
    return ",".join(map(str, shape)).encode()


def _output(output: TensorSpec, position: int) -> _Output:
    head = b'{"name":%b,"datatype":"%b","shape":['
    name = orjson.dumps(output.name)
    return _Output(output, position, head % (name, output.datatype.encode()), head % (name, BYTES.encode()))


def classes(array: Array, top: int, labels: Sequence[str], *, batched: bool) -> Array:
    """The `top` largest values of each row as "value:index" or "value:index:label", largest first: [rows, top]."""
    rows: Array = array.reshape(len(array), -1) if batched else array.reshape(1, -1)
    width = rows.shape[1]
    top = min(top, width)
    if rows.dtype.kind == "V":
        rows = rows.astype(np.float32)
    # Stable on the negated order: of equal values the first index wins.
    order = np.argsort(-rows.astype(np.float64), axis=1, kind="stable")[:, :top]
    found: Array = np.empty(order.shape, object)
    for i, picks in enumerate(order.tolist()):
        for j, index in enumerate(picks):
            label = f":{labels[index]}" if index < len(labels) else ""
            found[i, j] = f"{_number(rows[i, index])}:{index}{label}".encode()
    return found if batched else found[0]


def _number(value: Any) -> str:
    # Triton prints classification values with six decimals.
    return f"{float(value):f}" if value.dtype.kind == "f" else str(int(value))
