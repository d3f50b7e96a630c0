"""Python values, as a parser of text gives them, to columns: nesting to shape, numbers to bytes, every fault located.

The rules: integral floats (3.0) are integers; booleans are no numbers, and of numbers only 0 and 1 are booleans;
what does not fit the datatype is refused, and so is a float that would overflow to infinity; BYTES come as strings
(UTF-8) or as {"b64": "..."}.
"""

from __future__ import annotations

import base64
import binascii
from collections.abc import Callable, Sequence
from itertools import chain
from math import prod
from typing import Any, Final

import numpy as np

from serving.codecs.base import Column
from serving.datatypes import BYTES, INTEGERS, NUMPY
from serving.errors import InvalidInput

PACK_CODES: Final = {
    "UINT8": "B",
    "UINT16": "H",
    "UINT32": "I",
    "UINT64": "Q",
    "INT8": "b",
    "INT16": "h",
    "INT32": "i",
    "INT64": "q",
    "FP16": "e",
    "FP32": "f",
    "FP64": "d",
}
"""Datatypes that `struct` packs by the rules above, save that it takes booleans for numbers."""

_SHOWN = 48


def shown(value: object) -> str:
    """A value from a body as an error message names it: short, whatever came."""
    match value:
        case None:
            return "null"
        case bool():
            return "true" if value else "false"
        case dict():
            return "an object"
        case list():
            return "a list"
        case str():
            return f"the string '{value}'" if len(value) <= _SHOWN else f"the string '{value[:_SHOWN]}...'"
        case int() | float():
            return f"the number {value}"
        case _:
            return f"a {type(value).__name__}"


def dims(shape: Sequence[int]) -> str:
    """A shape as messages write it: [-1, 30]."""
    return f"[{', '.join(map(str, shape))}]"


def nest(label: str, data: object) -> tuple[tuple[int, ...], list[Any]]:
    """The shape of nested lists and their elements, flat and row-major; `label` names the data in errors.

    Raises `InvalidInput` where the nesting is ragged, naming the first index that differs.
    """
    level: list[Any] = [data]
    shape: tuple[int, ...] = ()
    while True:
        kinds = set(map(type, level))
        if list not in kinds:
            return shape, level
        if len(kinds) > 1:
            is_list = type(level[0]) is list
            bad = next(i for i, item in enumerate(level) if (type(item) is list) is not is_list)
            at = _index(bad, shape)
            here = _index(0, shape)
            raise InvalidInput(f"{label} is ragged: {at} is {shown(level[bad])} where {here} is {shown(level[0])}")
        size = len(level[0])
        if len(set(map(len, level))) > 1:
            bad = next(i for i, item in enumerate(level) if len(item) != size)
            raise InvalidInput(
                f"{label} is ragged: {_index(bad, shape)} has {len(level[bad])} elements"
                f" where {_index(0, shape)} has {size}"
            )
        shape += (size,)
        if size == 0:
            return shape, []
        level = list(chain.from_iterable(level))


def column(label: str, datatype: str, flat: list[Any], shape: Sequence[int]) -> Column:
    """Flat values of one tensor to its column; `shape` only locates faults. Raises `InvalidInput`."""
    if datatype == BYTES:
        return _strings(label, flat, shape)
    kinds = set(map(type, flat))
    if datatype == "BOOL":
        return _booleans(label, flat, kinds, shape)
    if not kinds <= {int, float}:
        _refuse(label, datatype, flat, shape, lambda v: type(v) is not int and type(v) is not float)
    if datatype in INTEGERS:
        return _integers(label, datatype, flat, kinds, shape)
    wide = np.array(flat, np.float64)
    if datatype == "FP64":
        return wide.tobytes()
    with np.errstate(over="ignore"):
        narrow = wide.astype(NUMPY[datatype])
    finite = np.isfinite(narrow)
    if not finite.all():
        bad = int(np.argmin(finite))
        raise InvalidInput(f"{label}: {_index(bad, shape)} is {shown(flat[bad])}, out of range for {datatype}")
    return narrow.tobytes()


def _integers(label: str, datatype: str, flat: list[Any], kinds: set[type], shape: Sequence[int]) -> bytes:
    if float in kinds:
        _refuse(label, datatype, flat, shape, lambda v: type(v) is float and not v.is_integer())
        flat = list(map(int, flat))
    limits = np.iinfo(NUMPY[datatype])
    if flat and (min(flat) < limits.min or max(flat) > limits.max):
        bad = next(i for i, v in enumerate(flat) if not limits.min <= v <= limits.max)
        raise InvalidInput(
            f"{label}: {_index(bad, shape)} is {shown(flat[bad])}, out of range for {datatype}"
            f" ({limits.min} to {limits.max})"
        )
    return np.array(flat, NUMPY[datatype]).tobytes()


def _booleans(label: str, flat: list[Any], kinds: set[type], shape: Sequence[int]) -> bytes:
    if kinds <= {bool}:
        return bytes(flat)
    _refuse(label, "BOOL", flat, shape, lambda v: type(v) is not bool and not (type(v) in {int, float} and v in {0, 1}))
    return bytes(map(bool, flat))


def _strings(label: str, flat: list[Any], shape: Sequence[int]) -> list[bytes]:
    if all(type(v) is str for v in flat):
        return [v.encode() for v in flat]
    found: list[bytes] = []
    for i, value in enumerate(flat):
        if type(value) is str:
            found.append(value.encode())
        elif is_base64(value):
            try:
                found.append(base64.b64decode(value["b64"], validate=True))
            except (binascii.Error, ValueError, TypeError) as error:
                raise InvalidInput(f"{label}: {_index(i, shape)} has a 'b64' that is not base64: {error}") from None
        else:
            raise InvalidInput(
                f'{label}: {_index(i, shape)} is {shown(value)}; BYTES takes strings or {{"b64": "..."}}'
            )
    return found


def is_base64(value: object) -> bool:
    """Whether a value is the {"b64": "..."} that stands for bytes."""
    return type(value) is dict and len(value) == 1 and "b64" in value


def _refuse(label: str, datatype: str, flat: list[Any], shape: Sequence[int], wrong: Callable[[Any], bool]) -> None:
    """Raises `InvalidInput` at the first value that is wrong, if there is one."""
    bad = next((i for i, v in enumerate(flat) if wrong(v)), None)
    if bad is not None:
        raise InvalidInput(f"{label}: {_index(bad, shape)} is {shown(flat[bad])}; {datatype} takes {_TAKES[datatype]}")


_TAKES: Final = (
    dict.fromkeys(INTEGERS, "whole numbers")
    | dict.fromkeys(("FP16", "BF16", "FP32", "FP64"), "numbers")
    | {"BOOL": "true, false, 0 or 1"}
)


def _index(flat_index: int, shape: Sequence[int]) -> str:
    """[row][column] of a flat index; "the value" for a scalar."""
    if not shape:
        return "the value"
    if prod(shape) <= flat_index:
        return f"[{flat_index}]"
    return "".join(f"[{int(i)}]" for i in np.unravel_index(flat_index, tuple(shape)))
