"""Raw tensor bytes, as the binary formats carry them: little-endian and row-major, BYTES with u32 lengths.

Source: Open Inference Protocol, binary tensor data extension.
"""

from __future__ import annotations

from struct import Struct
from typing import Any, Final

from serving.contract import Array
from serving.datatypes import BYTES
from serving.errors import InvalidInput

_LENGTH: Final = Struct("<I")


def split_elements(label: str, data: memoryview, count: int) -> list[bytes]:
    """The `count` length-prefixed elements that `data` holds and nothing more. Raises `InvalidInput`."""
    elements: list[bytes] = []
    at, end = 0, len(data)
    if count * 4 > end:
        raise InvalidInput(f"{label} has {end} bytes; {count} BYTES elements need at least {count * 4}")
    for i in range(count):
        if at + 4 > end:
            raise InvalidInput(
                f"{label}: element {i} of {count} is cut off at byte {at}; 4 bytes of length were expected"
            )
        (length,) = _LENGTH.unpack_from(data, at)
        at += 4
        if at + length > end:
            raise InvalidInput(f"{label}: element {i} says {length} bytes, {end - at} are left")
        elements.append(bytes(data[at : at + length]))
        at += length
    if at != end:
        raise InvalidInput(f"{label} has {end - at} bytes after its last element")
    return elements


def element(value: Any) -> bytes:
    """One element of a BYTES array; models may give text."""
    return value.encode() if isinstance(value, str) else bytes(value)


def tensor_bytes(array: Array, datatype: str) -> bytes:
    """An output as raw bytes."""
    if datatype != BYTES:
        return array.tobytes()
    parts: list[bytes] = []
    for value in array.ravel().tolist():
        data = element(value)
        parts += (_LENGTH.pack(len(data)), data)
    return b"".join(parts)
