"""`application/json`: every form in which people send tensors, and answers in the form of the question.

Questions: {"instances": rows}, {"inputs": columns}, a bare list or record, Open Inference v2. A row is a list, a number
where rows are scalars or of shape [1], an object by input name, a record by feature name, or {"features": [...]}.
For a model that is not batched there are no rows: `instances` is the only input whole, or holds one object with every
input whole. Keys that are not known are ignored at the top and refused in a row.
Sources: TensorFlow Serving REST API (row and column format), SageMaker common data formats for inference.
"""

from __future__ import annotations

import struct
from collections.abc import Sequence
from math import prod
from typing import Any, Final

import orjson

from serving.codecs import bulk, numbers
from serving.codecs.arrays import json_text, writable
from serving.codecs.base import Asked, Buffer, Decode, Decoded, Encode, Encoded, Style
from serving.codecs.open_inference import (
    StrictOpenInference,
    bulk_document,
    fast_document,
    is_open_inference,
    letters_e,
    parse,
)
from serving.codecs.plan import InputPlan, Tensor
from serving.codecs.values import PACK_CODES, column, is_base64, nest, shown
from serving.contract import Array, ModelSpec, TensorSpec
from serving.errors import InvalidInput, MalformedBody

HEADER: Final = b"content-type: application/json\r\n"

_INPUTS: Final = Asked(Style.INPUTS)
_BARE: Final = Asked(Style.BARE)


def decoder(plan: InputPlan) -> Decode:
    """Decoder of all forms; the plainest of each model takes the fast path, everything else the strict one."""
    strict = StrictJson(plan)
    tensor = plan.single
    if tensor is None or not plan.batched or not plan.fixed or tensor.datatype not in PACK_CODES:
        return _strict_decoder(plan, strict)
    fast = fast_document(plan)
    code = PACK_CODES[tensor.datatype]
    inner = tensor.shape[1:]
    if fast is None:
        return _strict_decoder(plan, strict)
    fast_v2 = fast
    expected = letters_e(plan)
    flat_rows = len(inner) == 1
    scalar_rows = not inner
    pack_row = struct.Struct(f"<{prod(inner)}{code}").pack
    pack = struct.pack
    row_type = numbers.row_type(plan)
    threshold = bulk.THRESHOLD
    pays = threshold if row_type is None else numbers.PAYS
    loads = orjson.loads

    def decode(body: Buffer) -> Decoded:
        if type(body) is not bytes:
            body = bytes(body)
        if len(body) > pays:
            if row_type is not None and (plain := numbers.json_rows(body, *row_type)) is not None:
                rows, data, bare = plain
                return rows, (data,), None, _BARE if bare else None
            if len(body) > threshold:
                found = _bulk(plan, strict.open_inference, body, inner, code)
                if found is not None:
                    return found
        try:
            document = loads(body)
        except orjson.JSONDecodeError:
            document = parse(body)
        # struct takes booleans for numbers, so they are looked for: first by the count of a letter, which is cheaper.
        if body.startswith(b'{"instances"'):
            suspicious = body.count(b"e") != 1
        else:
            suspicious = body.count(b"e") != expected or b"\\" in body
        if suspicious and (b"true" in body or b"false" in body):
            return strict.document(document)
        try:
            if len(document) == 1:
                rows = document["instances"]
                if flat_rows:
                    if len(rows) == 1:
                        return 1, (pack_row(*rows[0]),), None, None
                    if rows:
                        return len(rows), (b"".join([pack_row(*row) for row in rows]),), None, None
                elif scalar_rows and rows:
                    return len(rows), (pack(f"<{len(rows)}{code}", *rows),), None, None
        except KeyError:
            decoded = fast_v2(document)
            if decoded is not None:
                return decoded
        except (TypeError, OverflowError, struct.error):
            pass
        return strict.document(document)

    return decode


def _strict_decoder(plan: InputPlan, strict: StrictJson) -> Decode:
    def decode(body: Buffer) -> Decoded:
        if len(body) > bulk.THRESHOLD:
            found = bulk_document(plan, strict.open_inference, bytes(body))
            if found is not None:
                return found
        return strict.document(parse(body))

    return decode


def _bulk(
    plan: InputPlan, open_inference: StrictOpenInference, body: bytes, inner: tuple[int, ...], code: str
) -> Decoded | None:
    found = bulk.rows(body, inner, code)
    if found is None:
        return bulk_document(plan, open_inference, body)
    rows, data, bare = found
    return rows, (data,), None, _BARE if bare else None


class StrictJson:
    """Reads any JSON question, and refuses what is wrong by name and place."""

    def __init__(self, plan: InputPlan) -> None:
        self._plan = plan
        self.open_inference = StrictOpenInference(plan)

    def document(self, document: Any) -> Decoded:
        """Decodes a parsed body; raises `MalformedBody`, `InvalidInput` or `Unsupported`."""
        if isinstance(document, list):
            rows = document if self._holds_rows(document) else [document]
            return *self.rows(rows, "the list"), _BARE
        if not isinstance(document, dict):
            raise MalformedBody(f"the body is {shown(document)}; an object with 'instances' or 'inputs' was expected")
        if "instances" in document:
            if "inputs" in document:
                raise InvalidInput("the body has both 'instances' and 'inputs'; one was expected")
            return *self.rows(document["instances"], "'instances'"), None
        if is_open_inference(document):
            return self.open_inference.document(document)
        if "inputs" in document and not self._is_record(document):
            return *self._columns(document["inputs"]), _INPUTS
        return *self.rows([self._record(document)], "the body"), _BARE

    def _is_record(self, document: dict[str, Any]) -> bool:
        """Whether `inputs` is not the form but one of several inputs, so called."""
        plan = self._plan
        return plan.single is None and "inputs" in plan.index and not isinstance(document["inputs"], dict)

    def _record(self, document: dict[str, Any]) -> dict[str, Any]:
        known = set(self._plan.index)
        if self._plan.single is not None:
            known |= {*self._plan.single.features, "features", "b64"}
        if document and known.isdisjoint(document):
            came = ", ".join(f"'{key[:64]}'" for key in list(document)[:8])
            raise InvalidInput(
                f"the body has {came}; 'instances', 'inputs' or a record of {self._plan.names()} was expected"
            )
        if not document:
            raise InvalidInput("the body is an empty object; 'instances' or 'inputs' was expected")
        return document

    def _holds_rows(self, document: list[Any]) -> bool:
        """Whether a bare list is a list of rows, or else one row."""
        tensor = self._plan.single
        if tensor is None or not self._plan.batched:
            return True
        rank = 0
        value: Any = document
        while isinstance(value, list) and value:
            rank, value = rank + 1, value[0]
        return rank != len(tensor.shape) - 1 or _scalar_like(tensor) or (rank == 1 and _is_object(value))

    def rows(self, rows: object, where: str) -> tuple[Any, Any, Any]:
        """Rows, columns and signature of a list of rows; `where` names it in errors."""
        plan = self._plan
        if not isinstance(rows, list):
            raise InvalidInput(f"{where} is {shown(rows)}; a list of rows was expected")
        if not rows:
            raise InvalidInput(f"{where} is empty; at least one row was expected")
        if plan.single is not None:
            tensor = plan.single
            return plan.assemble([self._tensor(0, [self._row(tensor, row, i) for i, row in enumerate(rows)])])
        for i, row in enumerate(rows):
            if not isinstance(row, dict):
                raise InvalidInput(
                    f"row {i} of {where} is {shown(row)}; model '{plan.model_name}' takes an object with {plan.names()}"
                )
            _same_keys(f"row {i} of {where}", row, plan.index, "input")
        if plan.batched:
            return plan.assemble([self._tensor(i, [row[name] for row in rows]) for name, i in plan.index.items()])
        if len(rows) != 1:
            raise InvalidInput(f"{where} has {len(rows)} rows; model '{plan.model_name}' is not batched and takes one")
        return plan.assemble([self._tensor(i, rows[0][name]) for name, i in plan.index.items()])

    def _row(self, tensor: TensorSpec, row: Any, i: int) -> Any:
        """A row without the object around it."""
        if not _is_object(row):
            return row
        label = f"row {i} of input '{tensor.name}'"
        if tensor.name in row and tensor.name not in tensor.features:
            _same_keys(label, row, (tensor.name,), "input")
            return row[tensor.name]
        if "features" in row and "features" not in tensor.features:
            _same_keys(label, row, ("features",), "field")
            return row["features"]
        if not tensor.features:
            raise InvalidInput(
                f"{label} is an object with {', '.join(repr(str(key)[:64]) for key in list(row)[:8]) or 'no keys'};"
                f" a list or an object with '{tensor.name}' was expected"
            )
        _same_keys(label, row, tensor.features, "feature")
        return [row[feature] for feature in tensor.features]

    def _columns(self, columns: Any) -> tuple[Any, Any, Any]:
        plan = self._plan
        if isinstance(columns, dict) and not (plan.single is not None and _is_single_value(plan.single, columns)):
            return plan.assemble([self._tensor(plan.find(name), value) for name, value in columns.items()])
        if plan.single is None:
            raise InvalidInput(f"'inputs' is {shown(columns)}; an object with {plan.names()} was expected")
        return plan.assemble([self._tensor(0, columns)])

    def _tensor(self, position: int, value: Any) -> Tensor:
        """Nested values of one whole input, rows included."""
        plan = self._plan
        tensor = plan.spec.inputs[position]
        label = f"input '{tensor.name}'"
        shape, flat = nest(label, value)
        if plan.batched and len(shape) == 1 and len(tensor.shape) > 1 and _scalar_like(tensor):
            shape = (*shape, *tensor.shape[1:])
        plan.check_shape(position, shape)
        return Tensor(tensor.name, None, shape, column(label, tensor.datatype, flat, shape))


def _scalar_like(tensor: TensorSpec) -> bool:
    """Whether a row of a batched input is one value: [N], [N, 1], [N, 1, 1]."""
    return all(dim == 1 for dim in tensor.shape[1:])


def _is_object(value: object) -> bool:
    return isinstance(value, dict) and not is_base64(value)


def _is_single_value(tensor: TensorSpec, columns: dict[str, Any]) -> bool:
    return is_base64(columns) and tensor.name != "b64"


def _same_keys(label: str, row: dict[str, Any], keys: Any, kind: str) -> None:
    for key in row:
        if key not in keys:
            raise InvalidInput(f"{label} has the unknown {kind} '{key[:64]}'; expected: {', '.join(map(repr, keys))}")
    for key in keys:
        if key not in row:
            raise InvalidInput(f"{label} has no {kind} '{key}'; expected: {', '.join(map(repr, keys))}")


def encoder(spec: ModelSpec, open_inference: Encode) -> Encode:
    """Encoder that mirrors the question; `open_inference` writes the answers to v2 questions."""
    names = [output.name for output in spec.outputs]
    single = len(names) == 1
    dumps = orjson.dumps
    option = orjson.OPT_SERIALIZE_NUMPY

    def encode(arrays: Sequence[Array], asked: Asked | None) -> Encoded:
        if asked is None:
            if single:
                array = arrays[0]
                if array.size < bulk.ELEMENTS:
                    try:
                        return HEADER, b'{"predictions":' + dumps(array, option=option) + b"}"
                    except TypeError:
                        pass
                return HEADER, b'{"predictions":' + json_text(array) + b"}"
            return HEADER, b'{"predictions":' + by_row(arrays) + b"}"
        style = asked.style
        if style is Style.OPEN_INFERENCE:
            return open_inference(arrays, asked)
        if style is Style.INPUTS:
            if single:
                return HEADER, b'{"outputs":' + json_text(arrays[0]) + b"}"
            return HEADER, b'{"outputs":' + by_column(arrays) + b"}"
        if style is Style.BARE:
            return HEADER, json_text(arrays[0]) if single else by_row(arrays)
        return HEADER, b'{"predictions":' + (json_text(arrays[0]) if single else by_row(arrays)) + b"}"

    def by_column(arrays: Sequence[Array]) -> bytes:
        parts = [dumps(name) + b":" + json_text(array) for name, array in zip(names, arrays, strict=True)]
        return b"{" + b",".join(parts) + b"}"

    def by_row(arrays: Sequence[Array]) -> bytes:
        if not spec.batched:
            return b"[" + by_column(arrays) + b"]"
        columns = [writable(array) for array in arrays]
        return dumps([dict(zip(names, row, strict=True)) for row in zip(*columns, strict=True)], option=option)

    return encode
