"""Triton's generate extension: the fields of a JSON object are the inputs, by name, and every other field a parameter.

A value is a tensor's only element or a flat or nested list; dimensions that vary are inferred from the count, and a
batched model gets one row. Fields of `parameters` count as if they stood beside it. An answer holds each output as its
only element or a flat list.
Source: Triton Inference Server, generate extension.
"""

from __future__ import annotations

from collections.abc import Sequence
from math import prod
from typing import Any, Final

import orjson

from serving.codecs.arrays import is_utf8, json_text
from serving.codecs.asked import AskedReader
from serving.codecs.base import Asked, Buffer, Decode, Decoded, Encode, Encoded
from serving.codecs.open_inference import parse
from serving.codecs.plan import InputPlan, Tensor
from serving.codecs.values import column, dims, nest, shown
from serving.contract import Array, ModelSpec
from serving.datatypes import BYTES
from serving.errors import InvalidInput, MalformedBody, NotAcceptable, UnsupportedMediaType

HEADER: Final = b"content-type: application/json\r\n"

_READ: Final = frozenset({"", "application/json", "application/x-www-form-urlencoded"})


def decoder(plan: InputPlan, media_type: str) -> Decode:
    """The decoder of a request. Raises `UnsupportedMediaType` for a Content-Type other than JSON."""
    if media_type.partition(";")[0].strip().lower() not in _READ:
        raise UnsupportedMediaType(f"Content-Type '{media_type[:64]}' is not read here; application/json was expected")
    reader = AskedReader(plan.spec, plan.model_name)

    def decode(body: Buffer) -> Decoded:
        document = parse(bytes(body))
        if not isinstance(document, dict):
            raise MalformedBody(f"the body is {shown(document)}; an object with {plan.names()} was expected")
        identity = document.pop("id", None) if "id" not in plan.index else None
        nested = document.pop("parameters", None) if "parameters" not in plan.index else None
        if nested is not None and not isinstance(nested, dict):
            raise InvalidInput(f"'parameters' is {shown(nested)}; an object was expected")
        tensors: list[Tensor] = []
        parameters: dict[str, Any] = {}
        for name, value in (*document.items(), *(nested or {}).items()):
            if name in plan.index:
                tensors.append(_tensor(plan, plan.index[name], value))
            elif isinstance(value, dict | list) or value is None:
                raise InvalidInput(
                    f"'{name[:64]}' is {shown(value)}: model '{plan.model_name}' has no input of that name (its inputs: "
                    f"{plan.names()}), and a parameter is a string, a number or a boolean"
                )
            else:
                parameters[name] = value
        asked = reader.read({"id": identity, "parameters": parameters})
        return *plan.assemble(tensors), asked

    return decode


def _tensor(plan: InputPlan, position: int, value: Any) -> Tensor:
    spec = plan.spec.inputs[position]
    label = f"input '{spec.name}'"
    shape, flat = nest(label, value)
    if len(shape) != len(spec.shape):
        shape = _inferred(label, spec.shape, len(flat), plan.batched)
    return Tensor(spec.name, None, shape, column(label, spec.datatype, flat, shape))


def _inferred(label: str, shape: Sequence[int], count: int, batched: bool) -> tuple[int, ...]:
    """The shape that `count` elements of one request have. Raises `InvalidInput` where they do not fit."""
    wanted = [1, *shape[1:]] if batched else list(shape)
    varying = [i for i, size in enumerate(wanted) if size < 0]
    if len(varying) > 1:
        raise InvalidInput(f"{label} has shape {dims(shape)}, which a flat list leaves open; nest the lists")
    if varying:
        wanted[varying[0]] = count // max(1, prod(size for size in wanted if size >= 0))
    if prod(wanted) != count:
        raise InvalidInput(f"{label} has {count} elements; a tensor of shape {dims(shape)} was expected")
    return tuple(wanted)


def encoder(spec: ModelSpec, model_name: str, version: str) -> Encode:
    """The encoder of one answer, or of one part of a streamed one."""
    start = b'{"model_name":%b,"model_version":%b' % (orjson.dumps(model_name), orjson.dumps(version))
    names = [(output, b",%b:" % orjson.dumps(output.name)) for output in spec.outputs]

    def encode(arrays: Sequence[Array], asked: Asked | None) -> Encoded:
        pieces = [start]
        if asked is not None and asked.id is not None:
            pieces.append(b',"id":%b' % orjson.dumps(asked.id))
        for (output, name), array in zip(names, arrays, strict=True):
            if output.datatype == BYTES and not is_utf8(array):
                raise NotAcceptable(f"output '{output.name}' holds bytes that are not UTF-8; ask for it with /infer")
            text = json_text(array.reshape(-1))
            pieces += (name, text[1:-1] if array.size == 1 else text)
        pieces.append(b"}")
        return HEADER, b"".join(pieces)

    return encode
