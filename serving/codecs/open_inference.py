"""Open Inference Protocol v2 requests: JSON, and JSON followed by raw tensors.

Sources: Open Inference Protocol, inference request JSON object; Triton's binary tensor data extension.
"""

from __future__ import annotations

import struct
from collections.abc import Callable
from math import prod
from typing import Any, Final

import orjson

from serving.codecs import bulk
from serving.codecs.asked import PLAIN, AskedReader, fields, number, refuse_shared_memory
from serving.codecs.base import Asked, Buffer, Column, Decode, Decoded
from serving.codecs.plan import InputPlan, Tensor
from serving.codecs.raw import split_elements
from serving.codecs.values import PACK_CODES, column, dims, nest, shown
from serving.datatypes import BYTES, item_bytes
from serving.errors import InvalidInput, MalformedBody

_MEMO_ENTRIES: Final = 256
_MEMO_HEADER_BYTES: Final = 4096
_MEMO_NUMBERS: Final = 4096

_DATA: Final = b'"data":['
_END: Final = b"]}]}"

FastDocument = Callable[[Any], Decoded | None]
"""A parsed body to its decoded form, or None where only the strict way can tell."""


def is_open_inference(document: dict[str, Any]) -> bool:
    """Whether `inputs` is v2's list of tensors, not columns or rows."""
    inputs = document.get("inputs")
    return (
        isinstance(inputs, list)
        and bool(inputs)
        and isinstance(inputs[0], dict)
        and "name" in inputs[0]
        and ("shape" in inputs[0] or "datatype" in inputs[0])
    )


def parse(body: Buffer) -> Any:
    """JSON text to Python values; raises `MalformedBody` with the place of the fault."""
    try:
        return orjson.loads(body)
    except orjson.JSONDecodeError as error:
        raise MalformedBody(
            f"the body is not JSON: {error}" if body else "the body is empty; JSON was expected"
        ) from None


def letters_e(plan: InputPlan) -> int:
    """How often the letter e is in the plain v2 body of the only input: any "true" or "false" adds one.

    Counting a letter costs a third of looking for the two words; a backslash could hide one, so that is looked for too.
    """
    return '"inputs""name""shape""datatype""data"'.count("e") + sum(
        tensor.name.count("e") for tensor in plan.spec.inputs
    )


def json_decoder(plan: InputPlan) -> Decode:
    """Decoder of v2 JSON bodies, and of nothing else.

    Clients repeat all but the numbers. The text up to `"data":` of a plain body is remembered with its meaning, so that
    of the next one that begins and ends alike only the numbers are parsed: JSON's grammar gives a text no other reading.
    """
    strict = StrictOpenInference(plan)
    fast = fast_document(plan)
    expected = letters_e(plan)
    starts: dict[bytes, Callable[[Any], Decoded]] = {}
    loads = orjson.loads

    def decode(body: Buffer) -> Decoded:
        if type(body) is not bytes:
            body = bytes(body)
        if len(body) > bulk.THRESHOLD:
            found = bulk_document(plan, strict, body)
            if found is not None:
                return found
        place = body.find(_DATA)
        known = starts.get(body[:place])
        if known is not None and body.endswith(_END):
            numbers = body[place + len(_DATA) - 1 : 1 - len(_END)]
            if b"e" not in numbers:  # true, false, and exponents, which are rare
                try:
                    return known(loads(numbers))
                except (ValueError, TypeError, OverflowError, struct.error):
                    pass  # the strict way says what is wrong
        document = parse(body)
        if fast is not None and (
            (body.count(b"e") == expected and b"\\" not in body) or not (b"true" in body or b"false" in body)
        ):
            decoded = fast(document)
            if decoded is not None:
                if known is None and 0 < place <= _MEMO_HEADER_BYTES:
                    remember(body, place, document)
                return decoded
        return strict.document(document)

    def remember(body: bytes, place: int, document: Any) -> None:
        (entry,) = document["inputs"]
        numbers = body[place + len(_DATA) - 1 : 1 - len(_END)]
        if any(type(size) is not int for size in entry["shape"]):
            return
        count = prod(entry["shape"])
        if not body.endswith(_END) or len(entry["data"]) != count or count > _MEMO_NUMBERS:
            return
        try:
            if loads(numbers) != entry["data"]:
                return
        except orjson.JSONDecodeError:
            return
        if len(starts) >= _MEMO_ENTRIES:
            starts.clear()
        starts[body[:place]] = numbers_decoder(entry["shape"][0], count, PACK_CODES[entry["datatype"]])

    return decode


def numbers_decoder(rows: int, count: int, code: str) -> Callable[[Any], Decoded]:
    """Decoder of the parsed numbers of a plain body whose shape is known; raises where they are not that many numbers."""
    pack = struct.Struct(f"<{count}{code}").pack

    def decode(numbers: Any) -> Decoded:
        return rows, (pack(*numbers),), None, PLAIN

    return decode


def fast_document(plan: InputPlan) -> FastDocument | None:
    """The plain case of one numeric input of fixed row shape and no extras; None where a model has no plain case.

    `struct` packs and checks in one pass, but takes booleans for numbers: callers look for them in the body first.
    """
    tensor = plan.single
    if tensor is None or not plan.batched or not plan.fixed or tensor.datatype not in PACK_CODES:
        return None
    name, datatype, rank = tensor.name, tensor.datatype, len(tensor.shape)
    inner = list(tensor.shape[1:])
    one_row = [1, *inner]
    width = prod(inner)
    code = PACK_CODES[datatype]
    pack_row = struct.Struct(f"<{width}{code}").pack
    pack = struct.pack
    nested = rank == 2

    def decode(document: Any) -> Decoded | None:
        try:
            if len(document) != 1:
                return None
            (entry,) = document["inputs"]
            if len(entry) != 4 or entry["name"] != name or entry["datatype"] != datatype:
                return None
            shape, data = entry["shape"], entry["data"]
            if shape == one_row and len(data) == width:
                return 1, (pack_row(*data),), None, PLAIN
            rows = shape[0]
            if type(rows) is not int or rows < 1 or shape[1:] != inner:
                return None
            if len(data) == rows * width and type(data[0]) is not list:
                return rows, (pack(f"<{rows * width}{code}", *data),), None, PLAIN
            if nested and len(data) == rows:
                return rows, (b"".join([pack_row(*row) for row in data]),), None, PLAIN
        except (KeyError, TypeError, ValueError, IndexError, OverflowError, struct.error):
            pass
        return None

    return decode if width else None


def binary_decoder(plan: InputPlan, json_length: int) -> Decode:
    """Decoder of bodies whose first `json_length` bytes are JSON and the rest raw tensors; the tensors are not copied.

    Clients repeat their JSON part byte for byte, so its parsed and validated meaning is remembered by those bytes,
    within bounds; a request with an id is not remembered. `json_length` 0: the body is the only input's raw bytes.
    """
    if json_length == 0:
        return raw_decoder(plan, PLAIN)
    strict = StrictOpenInference(plan)
    memo = plan.memo

    def decode(body: Buffer) -> Decoded:
        header = bytes(body[:json_length])
        known = memo.get(header)
        if known is not None:
            slices, length, (rows, _, signature, asked) = known
            if len(body) == length:
                view = memoryview(body)
                return rows, tuple([view[part] for part in slices]), signature, asked
        if len(body) < json_length:
            raise MalformedBody(
                f"Inference-Header-Content-Length is {json_length}, but the body has only {len(body)} bytes"
            )
        document = parse(header)
        tail = memoryview(body)[json_length:]
        decoded = strict.document(document, tail)
        asked = decoded[3]
        if json_length <= _MEMO_HEADER_BYTES and asked is not None and asked.id is None:
            places = strict.places(document, json_length)
            if places is not None:
                if len(memo) >= _MEMO_ENTRIES:
                    memo.clear()
                rows, _, signature, _ = decoded
                memo[header] = (places, len(body), (rows, (), signature, asked))
        return decoded

    return decode


def raw_decoder(plan: InputPlan, asked: Asked | None) -> Decode:
    """Decoder of bodies that are the only input's raw bytes: rows from the size, at most one free dimension inferred.

    A BYTES body is one element.
    """
    tensor = plan.only("a body of raw bytes")
    label = f"input '{tensor.name}'"
    inner = plan.inner(tensor)
    free = [i for i, dim in enumerate(inner) if dim < 0]
    fixed_elements = prod(dim for dim in inner if dim >= 0)

    def shape_of(body: Buffer) -> list[int]:
        if tensor.datatype == BYTES:
            shape = [1 if dim < 0 else dim for dim in tensor.shape]
            if prod(shape) != 1:
                raise InvalidInput(f"{label} has shape {dims(tensor.shape)}; a raw body is one BYTES element")
            return shape
        if len(free) > 1:
            raise InvalidInput(
                f"{label} has shape {dims(tensor.shape)}: more than one dimension varies, so raw bytes do not fix it"
            )
        unit = fixed_elements * item_bytes(tensor.datatype)
        if not unit or not body or len(body) % unit:
            raise InvalidInput(
                f"{label} has {len(body)} bytes; a multiple of {unit} was expected"
                f" ({tensor.datatype} of shape {dims(tensor.shape)})"
            )
        count = len(body) // unit
        row = [count if dim < 0 else dim for dim in inner]
        if not plan.batched:
            return row
        return [1, *row] if free else [count, *row]

    def decode(body: Buffer) -> Decoded:
        shape = shape_of(body)
        data: Column = [bytes(body)] if tensor.datatype == BYTES else memoryview(body)
        return *plan.assemble([Tensor(tensor.name, None, shape, data)]), asked

    return decode


class StrictOpenInference:
    """Reads any v2 document, with or without a binary tail, and refuses what is wrong by name."""

    def __init__(self, plan: InputPlan) -> None:
        self._plan = plan
        self._asked = AskedReader(plan.spec, plan.model_name)

    def document(self, document: Any, tail: memoryview | None = None, given: Column | None = None) -> Decoded:
        """Decodes a parsed document. `tail`: the raw bytes after it. `given`: the packed data of the only input."""
        if not isinstance(document, dict):
            raise MalformedBody(f"the body is {shown(document)}; an object with 'inputs' was expected")
        entries = document.get("inputs")
        if not isinstance(entries, list):
            came = f"is {shown(entries)}" if "inputs" in document else "is missing"
            raise InvalidInput(f"'inputs' {came}; a list of tensors was expected")
        asked = self._asked.read(document)
        at = 0
        tensors = []
        for i, entry in enumerate(entries):
            if not isinstance(entry, dict):
                raise InvalidInput(f"inputs[{i}] is {shown(entry)}; an object with name, shape, datatype was expected")
            tensor, at = self._tensor(i, entry, tail, at, given)
            tensors.append(tensor)
        decoded = self._plan.assemble(tensors)
        if tail is not None and at != len(tail):
            raise InvalidInput(f"the body has {len(tail) - at} bytes after the {at} that its inputs name")
        return *decoded, asked

    def places(self, document: dict[str, Any], start: int) -> tuple[slice, ...] | None:
        """Where each input's raw bytes lie in the body of a valid document, if a view of them is all that is needed."""
        found: dict[int, slice] = {}
        for entry in document["inputs"]:
            position = self._plan.index[entry["name"]]
            size = fields(entry.get("parameters"), "").get("binary_data_size")
            # BYTES are split and BOOL bytes are checked each time.
            if size is None or entry["datatype"] in {BYTES, "BOOL"}:
                return None
            found[position] = slice(start, start + size)
            start += size
        return tuple(found[position] for position in range(len(found)))

    def _tensor(
        self, i: int, entry: dict[str, Any], tail: memoryview | None, at: int, given: Column | None
    ) -> tuple[Tensor, int]:
        plan = self._plan
        if "name" not in entry:
            raise InvalidInput(f"inputs[{i}] has no 'name'; the inputs: {plan.names()}")
        position = plan.find(entry["name"])
        name, datatype = plan.spec.inputs[position].name, plan.spec.inputs[position].datatype
        label = f"input '{name}'"
        for key in ("shape", "datatype"):
            if key not in entry:
                raise InvalidInput(f"{label} has no '{key}'")
        plan.check_datatype(position, entry["datatype"])
        shape = _shape(label, entry["shape"])
        elements = plan.check_shape(position, shape)
        parameters = fields(entry.get("parameters"), f"{label} parameters")
        refuse_shared_memory(parameters, label)
        if "binary_data_size" in parameters:
            size = number(parameters, "binary_data_size", label)
            if "data" in entry:
                raise InvalidInput(f"{label} has both 'data' and 'binary_data_size'; one was expected")
            if tail is None:
                raise InvalidInput(
                    f"{label} has 'binary_data_size', but the request has no Inference-Header-Content-Length header"
                )
            if at + size > len(tail):
                raise InvalidInput(f"{label} says {size} binary bytes; {len(tail) - at} are left in the body")
            view = tail[at : at + size]
            at += size
            data: Column = split_elements(label, view, elements) if datatype == BYTES else view
            return Tensor(name, datatype, shape, data), at
        if given is not None:
            return Tensor(name, datatype, shape, given), at
        if "data" not in entry:
            raise InvalidInput(f"{label} has no 'data'")
        if not isinstance(entry["data"], list):
            raise InvalidInput(f"{label}: 'data' is {shown(entry['data'])}; a list was expected")
        nesting, flat = nest(label, entry["data"])
        if len(nesting) > 1 and nesting != tuple(shape):
            raise InvalidInput(f"{label} has 'data' nested as {dims(nesting)}; its shape is {dims(shape)}")
        plan.check_count(position, shape, elements, len(flat))
        return Tensor(name, datatype, shape, column(label, datatype, flat, shape)), at


def bulk_document(plan: InputPlan, strict: StrictOpenInference, body: bytes) -> Decoded | None:
    """A large body of one numeric input, its flat data parsed in pieces; None where it is not of that form."""
    tensor = plan.single
    if tensor is None or tensor.datatype not in PACK_CODES:
        return None
    cut = bulk.flat_array(body, PACK_CODES[tensor.datatype])
    if cut is None:
        return None
    rest, data = cut
    try:
        document = orjson.loads(rest)
        (entry,) = document["inputs"]
        if entry["data"] != [bulk.PLACEHOLDER] or "parameters" in entry:
            return None
        return strict.document(document, None, data)
    except (orjson.JSONDecodeError, KeyError, TypeError, ValueError, InvalidInput):
        # Whatever is wrong, the ordinary way says it better.
        return None


def _shape(label: str, shape: object) -> list[int]:
    if not isinstance(shape, list):
        raise InvalidInput(f"{label}: 'shape' is {shown(shape)}; a list of whole numbers was expected")
    found = []
    for dim in shape:
        if type(dim) is not int and not (type(dim) is float and dim.is_integer() and abs(dim) < 2**63):
            raise InvalidInput(f"{label}: 'shape' holds {shown(dim)}; whole numbers were expected")
        found.append(int(dim))
    return found
