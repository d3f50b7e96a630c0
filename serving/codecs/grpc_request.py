"""Strict reading of ModelInferRequest messages: every input against the model, raw or typed contents to columns.

Typed contents are checked by the rules of `values`, but floats may be infinite or NaN as raw ones may.
Source: Open Inference Protocol, gRPC; tensor data.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Final, NamedTuple

import numpy as np

from serving.codecs import grpc_messages
from serving.codecs.asked import PLAIN, AskedReader, refuse_shared_memory
from serving.codecs.base import Asked, Column, Decoded, Signature
from serving.codecs.plan import InputPlan, Tensor, check_booleans
from serving.codecs.raw import split_elements
from serving.codecs.values import column
from serving.datatypes import BYTES, NUMPY, item_bytes
from serving.errors import InvalidInput

BOOL: Final = "BOOL"
_TYPED: Final = {
    BOOL: "bool_contents",
    "INT8": "int_contents",
    "INT16": "int_contents",
    "INT32": "int_contents",
    "INT64": "int64_contents",
    "UINT8": "uint_contents",
    "UINT16": "uint_contents",
    "UINT32": "uint_contents",
    "UINT64": "uint64_contents",
    "FP32": "fp32_contents",
    "FP64": "fp64_contents",
    BYTES: "bytes_contents",
}
"""Where `InferTensorContents` has the values of a datatype; FP16 and BF16 come raw only."""

_BINARY: Final = frozenset({"binary_data", "binary_data_output", "binary_data_size"})
"""Parameters of the REST protocol, where tensors may be text; here they say nothing."""


class Part(NamedTuple):
    """What the raw contents of one input are to be; `size` in bytes, 0 for BYTES, which do not fix it."""

    position: int
    datatype: str
    elements: int
    size: int


class Head(NamedTuple):
    """The meaning of all that a request says beside its raw contents and its id; a part for each raw contents."""

    rows: int
    signature: Signature | None
    asked: Asked
    parts: tuple[Part, ...]

    @property
    def views(self) -> bool:
        """Whether a view of raw contents of the right size is all that a column is."""
        return all(part.datatype not in {BYTES, BOOL} for part in self.parts)

    def identified(self, identity: str) -> Asked:
        """What a request of an id asks; "" is none."""
        asked = self.asked
        return Asked(
            asked.style, identity or None, asked.outputs, asked.binary_output, asked.priority, asked.timeout_us
        )


class RequestReader:
    """Reads requests to one model; raises `MalformedBody`, `InvalidInput` and `Unsupported`."""

    def __init__(self, plan: InputPlan) -> None:
        self._plan = plan
        self._asked = AskedReader(plan.spec, plan.model_name)

    def read(self, body: bytes, raw: Sequence[memoryview]) -> tuple[Decoded, Head]:
        """A request and its meaning. `body`: a message, with or without its raw contents; `raw`: these."""
        plan = self._plan
        message = grpc_messages.parse(grpc_messages.messages().ModelInferRequest, body)
        asked = self._read_asked(message)
        entries = [(entry, self._part(i, entry)) for i, entry in enumerate(message.inputs)]
        if raw and len(raw) != len(entries):
            raise InvalidInput(
                f"the request has {len(raw)} raw_input_contents and {len(entries)} inputs;"
                " one for each input was expected"
            )
        tensors = []
        for i, (entry, part) in enumerate(entries):
            data = self._raw(entry, part, raw[i]) if raw else self._typed(entry, part)
            tensors.append(Tensor(entry.name, part.datatype, entry.shape, data))
        rows, columns, signature = plan.assemble(tensors)
        parts = tuple([part for _, part in entries]) if raw else ()
        return (rows, columns, signature, asked), Head(rows, signature, asked, parts)

    def again(self, head: Head, raw: Sequence[memoryview]) -> Decoded | None:
        """A request of a known head; None where its raw contents do not fit, of which `read` knows the words."""
        if len(raw) != len(head.parts):
            return None
        columns: list[Column] = [b""] * len(raw)
        for (position, datatype, elements, size), view in zip(head.parts, raw, strict=True):
            if datatype == BYTES:
                columns[position] = split_elements(self._label(position), view, elements)
                continue
            if len(view) != size:
                return None
            if datatype == BOOL:
                check_booleans(self._label(position), view)
            columns[position] = view
        return head.rows, tuple(columns), head.signature, head.asked

    def _label(self, position: int) -> str:
        return f"input '{self._plan.spec.inputs[position].name}'"

    def _read_asked(self, message: Any) -> Asked:
        if not (message.id or message.parameters or message.outputs):
            return PLAIN
        document = {
            "id": message.id or None,
            "parameters": _parameters(message),
            "outputs": [{"name": output.name, "parameters": _parameters(output)} for output in message.outputs],
        }
        return self._asked.read(document)

    def _part(self, i: int, entry: Any) -> Part:
        plan = self._plan
        if not entry.name:
            raise InvalidInput(f"inputs[{i}] has no name; the inputs: {plan.names()}")
        position = plan.find(entry.name)
        label = self._label(position)
        datatype = plan.spec.inputs[position].datatype
        if not entry.datatype:
            raise InvalidInput(f"{label} has no datatype; {datatype} was expected")
        plan.check_datatype(position, entry.datatype)
        elements = plan.check_shape(position, entry.shape)
        refuse_shared_memory(dict.fromkeys(entry.parameters), label)
        return Part(position, datatype, elements, elements * item_bytes(datatype))

    def _raw(self, entry: Any, part: Part, view: memoryview) -> Column:
        label = self._label(part.position)
        for field, _ in entry.contents.ListFields():
            raise InvalidInput(
                f"{label} has {field.name}, and the request has raw_input_contents; one of the two was expected"
            )
        return split_elements(label, view, part.elements) if part.datatype == BYTES else view

    def _typed(self, entry: Any, part: Part) -> Column:
        label, datatype = self._label(part.position), part.datatype
        expected = _TYPED.get(datatype)
        if expected is None:
            raise InvalidInput(f"{label} is {datatype}, which has no typed contents; raw_input_contents were expected")
        given = [field.name for field, _ in entry.contents.ListFields()]
        for name in given:
            if name != expected:
                raise InvalidInput(f"{label} has {name}; {datatype} takes {expected} or raw_input_contents")
        if not given and part.elements:
            raise InvalidInput(f"{label} has no contents; {expected} or raw_input_contents were expected")
        values = list(getattr(entry.contents, expected))
        self._plan.check_count(part.position, entry.shape, part.elements, len(values))
        if datatype == BYTES:
            return values
        if datatype in {"FP32", "FP64"} or not values:
            return np.array(values, NUMPY[datatype]).tobytes()
        return column(label, datatype, values, entry.shape)


def _parameters(message: Any) -> dict[str, Any]:
    """Parameters as a v2 document has them; one without a value is null."""
    found = {}
    for key, value in message.parameters.items():
        if key not in _BINARY:
            kind = value.WhichOneof("parameter_choice")
            found[key] = None if kind is None else getattr(value, kind)
    return found
