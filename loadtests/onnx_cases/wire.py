"""Tensors as raw bytes, as v2 binary bodies and gRPC's raw contents carry them; the tests' own reading of the protocol."""

from __future__ import annotations

import struct
from collections.abc import Sequence
from typing import Final

import numpy as np

from loadtests.onnx_cases.case import Tensor
from serving.contract import Array
from serving.datatypes import BYTES, NUMPY

_LENGTH: Final = struct.Struct("<I")


class Refused(Exception):
    """The server did not answer the question; the message is what it said."""


def raw(tensor: Tensor) -> bytes:
    """A tensor's bytes: little-endian and row-major, BYTES elements with their lengths."""
    if tensor.datatype != BYTES:
        return tensor.array.tobytes()
    return b"".join(_LENGTH.pack(len(value)) + value for value in tensor.array.ravel())


def read(data: bytes, datatype: str, shape: Sequence[int]) -> Array:
    """The tensor in those bytes. Raises `Refused` where they do not fit the shape."""
    count = int(np.prod(shape, dtype=np.int64))
    try:
        if datatype != BYTES:
            return np.frombuffer(data, NUMPY[datatype]).reshape(shape)
        found, at = np.empty(count, object), 0
        for position in range(count):
            (length,) = _LENGTH.unpack_from(data, at)
            found[position] = data[at + 4 : at + 4 + length]
            at += 4 + length
    except (ValueError, struct.error) as error:
        raise Refused(f"{len(data)} bytes came for {datatype} of shape {list(shape)}: {error}") from error
    if at != len(data):
        raise Refused(f"{len(data) - at} bytes follow the last of {count} elements")
    return found.reshape(shape)
