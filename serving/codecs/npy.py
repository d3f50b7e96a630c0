"""`application/x-npy`: one array in numpy's own format, for models of one input and of one output.

An array of another dtype is taken where no kind of value is lost and every value fits: whole numbers to any whole
number or float, floats to floats (values that would overflow to infinity are refused); booleans only as BOOL; `S` and
`U` strings as BYTES. Objects (pickles) are never read. Source: NEP 1, A simple file format for numpy arrays.
"""

from __future__ import annotations

import io
import re
from collections.abc import Sequence
from functools import lru_cache
from typing import Any, Final

import numpy as np

from serving.codecs.base import Asked, Buffer, Column, Decode, Decoded, Encode, Encoded
from serving.codecs.plan import InputPlan, Tensor
from serving.codecs.raw import element
from serving.codecs.values import dims
from serving.contract import Array, ModelSpec
from serving.datatypes import BYTES, NUMPY
from serving.errors import InvalidInput, MalformedBody, NotAcceptable

HEADER: Final = b"content-type: application/x-npy\r\n"

_MAGIC: Final = b"\x93NUMPY"
_MOST_HEADER: Final = 4096
# A Python literal by the format, but of this form only; nothing is evaluated. Possessive, so that nothing backtracks.
_HEADER: Final = re.compile(
    r"""\s*+\{\s*+(?:['"](?:
        descr['"]\s*+:\s*+['"](?P<descr>[<>|=]?[biufcSUVO][0-9]{0,9})['"]
        | fortran_order['"]\s*+:\s*+(?P<fortran_order>True|False)
        | shape['"]\s*+:\s*+\((?P<shape>(?:[ ]*+[0-9]{1,18}+L?[ ]*+(?:,|(?=\)))){0,64}+[ ]*+)\)
    )\s*+,?\s*+){3}+\}\s*+""",
    re.VERBOSE,
)
_MOST_PADDING: Final = 1 << 24


def decoder(plan: InputPlan) -> Decode:
    """Decoder for a model of one input; an array of the input's own dtype in C order is not copied."""
    tensor = plan.only("application/x-npy")
    label = f"input '{tensor.name}'"
    exact = NUMPY[tensor.datatype]

    def decode(body: Buffer) -> Decoded:
        shape, dtype, fortran, data = _read(body)
        elements = plan.check_shape(0, shape)
        if len(data) != elements * dtype.itemsize:
            raise MalformedBody(
                f"the array of shape {dims(shape)} and dtype {dtype} needs {elements * dtype.itemsize} bytes,"
                f" {len(data)} came after the header"
            )
        found: Column
        if dtype == exact and not fortran:
            found = data
        else:
            array: Array = np.frombuffer(data, dtype)
            if fortran:
                array = array.reshape(shape, order="F").ravel(order="C")
            found = converted(label, tensor.datatype, array)
        return *plan.assemble([Tensor(tensor.name, None, shape, found)]), None

    return decode


def _read(body: Buffer) -> tuple[tuple[int, ...], np.dtype[Any], bool, memoryview]:
    """Shape, dtype, whether in Fortran order, and the array's bytes."""
    view = memoryview(body)
    if bytes(view[:6]) != _MAGIC or len(view) < 10 or view[6] not in {1, 2, 3}:
        raise MalformedBody("the body is not an .npy file: its first bytes are not those of version 1, 2 or 3")
    start = 10 if view[6] == 1 else 12
    end = start + int.from_bytes(view[8:start], "little")
    if end - start > _MOST_HEADER or end > len(view):
        raise MalformedBody(
            f"the .npy header says {end - start} bytes; at most {_MOST_HEADER} within the body are read"
        )
    return *_header(bytes(view[start:end]), "latin-1" if view[6] < 3 else "utf-8"), view[end:]


@lru_cache(maxsize=64)
def _header(text: bytes, encoding: str) -> tuple[tuple[int, ...], np.dtype[Any], bool]:
    """Shape, dtype and whether in Fortran order; clients repeat their headers, and reading one is slow."""
    found = _HEADER.fullmatch(text.decode(encoding, "replace"))
    if found is None or None in (entries := found.groupdict()).values():
        raise MalformedBody(
            "the .npy header cannot be read: descr (plain numbers or strings), fortran_order and shape were expected"
        )
    shape = tuple(int(dim.strip(" L")) for dim in entries["shape"].split(",") if dim.strip())
    try:
        dtype = np.dtype(entries["descr"])
    except (TypeError, ValueError):
        raise MalformedBody(f"the .npy header has the dtype {entries['descr']}, which numpy does not know") from None
    if dtype.hasobject or dtype.itemsize == 0:
        raise InvalidInput(f"the array has dtype {entries['descr']}; an array of plain numbers or strings was expected")
    return shape, dtype, entries["fortran_order"] == "True"


def converted(label: str, datatype: str, array: Array) -> Column:
    """A flat array of another dtype as the column of an input, where no kind of value is lost and every value fits."""
    if datatype == BYTES:
        if array.dtype.kind == "S":
            return [bytes(value) for value in array.tolist()]
        if array.dtype.kind == "U":
            return _encoded(label, array)
        raise InvalidInput(f"{label} has dtype {array.dtype}; strings were expected for BYTES")
    target = NUMPY[datatype]
    if datatype == "BF16" and array.dtype.kind == "V" and array.dtype.itemsize == 2:
        # numpy writes bfloat16 as two opaque bytes.
        return array.tobytes()
    kind = "f" if datatype == "BF16" else target.kind
    taken = {"b": "b", "i": "iu", "u": "iu", "f": "iuf"}[kind]
    if array.dtype.kind not in taken:
        raise InvalidInput(f"{label} has dtype {array.dtype}; {datatype} was expected")
    with np.errstate(over="ignore", invalid="ignore"):
        cast = array.astype(target)
        if kind == "f":
            lost = np.isinf(cast) & np.isfinite(array.astype(np.float64) if array.dtype.kind == "f" else array)
        else:
            limits = np.iinfo(target)
            lost = _outside(array, int(limits.min), int(limits.max))
    if lost.any():
        at = int(np.argmax(lost))
        raise InvalidInput(f"{label}: element {at} is {array[at]}, out of range for {datatype}")
    return cast.tobytes()


def _outside(array: Array, low: int, high: int) -> Array:
    limits = np.iinfo(array.dtype)
    below: Array = array < low if low > limits.min else np.zeros(array.shape, bool)
    return below | (array > high) if high < limits.max else below


def _encoded(label: str, array: Array) -> list[bytes]:
    try:
        return [value.encode() for value in array.tolist()]
    except (UnicodeEncodeError, ValueError, SystemError) as error:
        raise InvalidInput(f"{label} holds text that is not Unicode: {str(error)[:200]}") from None


def encoder(spec: ModelSpec) -> Encode:
    """Encoder of a single output; BF16 is written as the float32 of equal value, BYTES as fixed-width `S`."""
    datatype = spec.outputs[0].datatype
    names = ", ".join(f"'{output.name}'" for output in spec.outputs)

    def encode(arrays: Sequence[Array], asked: Asked | None) -> Encoded:
        if len(arrays) != 1:
            raise NotAcceptable(f"application/x-npy carries one output; the model gives {names}")
        array = arrays[0]
        if datatype == "BF16":
            array = array.astype(np.float32)
        elif datatype == BYTES:
            array = _fixed_width(array)
        out = io.BytesIO()
        np.save(out, array, allow_pickle=False)
        return HEADER, out.getvalue()

    return encode


def _fixed_width(array: Array) -> Array:
    values = [element(value) for value in array.ravel().tolist()]
    width = max(map(len, values), default=1)
    if width * len(values) > _MOST_PADDING + 4 * sum(map(len, values)):
        raise NotAcceptable("the output's strings differ too much in length for application/x-npy; ask for JSON")
    if any(value.endswith(b"\0") for value in values):
        raise NotAcceptable(
            "the output's strings end in zero bytes, which application/x-npy cannot carry; ask for JSON"
        )
    return np.array(values, f"S{max(width, 1)}").reshape(array.shape)
