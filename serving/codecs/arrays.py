"""Output arrays as text: JSON for every datatype, with what JSON lacks settled once.

NaN and infinities become null, which is what JSON has for "no number"; BF16 is written as the float32 of equal value;
BYTES that are UTF-8 become strings, others {"b64": "..."}, as TensorFlow Serving writes them.
"""

from __future__ import annotations

import base64
from typing import Any, Final

import numpy as np
import orjson

from serving.codecs import bulk
from serving.codecs.raw import element
from serving.contract import Array

_NUMPY: Final = orjson.OPT_SERIALIZE_NUMPY
_LARGE: Final = 64 * 1024


def json_text(array: Array) -> bytes:
    """The array as nested JSON lists."""
    if array.size > _LARGE:
        found = writable(array)
        return bulk.json_text(found) if isinstance(found, np.ndarray) else orjson.dumps(found)
    try:
        return orjson.dumps(array, option=_NUMPY)
    except TypeError:
        return orjson.dumps(writable(array), option=_NUMPY)


def writable(array: Array) -> Any:
    """The array as something that orjson writes: itself where it can be, else converted."""
    if array.dtype.kind in "OSU":
        return _text(array.tolist())
    if array.dtype.kind == "V":
        array = array.astype(np.float32)
    if array.ndim == 0:
        return array[()]
    return np.ascontiguousarray(array)


def is_utf8(array: Array) -> bool:
    """Whether every element of a BYTES array can be a JSON string."""
    try:
        for value in array.ravel().tolist():
            element(value).decode()
    except UnicodeDecodeError:
        return False
    return True


def _text(value: Any) -> Any:
    if isinstance(value, list):
        return [_text(item) for item in value]
    data = element(value)
    try:
        return data.decode()
    except UnicodeDecodeError:
        return {"b64": base64.b64encode(data).decode()}
