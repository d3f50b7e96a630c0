"""Universal Binary JSON, as far as XGBoost writes it, with bounds for what others write.

Source: ubjson.org, draft 12. Typed arrays become numpy arrays without a copy of each element.
"""

from __future__ import annotations

from typing import Any, Final

import numpy as np

from serving.contract import Array

MOST_DEPTH: Final = 64

_NUMBERS: Final[dict[int, np.dtype[Any]]] = {
    ord("i"): np.dtype(">i1"),
    ord("U"): np.dtype(">u1"),
    ord("I"): np.dtype(">i2"),
    ord("l"): np.dtype(">i4"),
    ord("L"): np.dtype(">i8"),
    ord("d"): np.dtype(">f4"),
    ord("D"): np.dtype(">f8"),
}
_CONSTANTS: Final = {ord("T"): True, ord("F"): False, ord("Z"): None}
_INTEGERS: Final = b"iUIlL"


class NotUbjson(ValueError):
    """The bytes are not UBJSON; says why and where."""


def loads(content: bytes) -> Any:
    """The one value that `content` is: dict, list, numpy array, str, int, float, bool or None. Raises `NotUbjson`."""
    reader = _Reader(content)
    try:
        value = reader.value(reader.byte(), 0)
    except IndexError as error:
        raise NotUbjson(f"it ends at byte {len(content)}, in the middle of a value") from error
    except UnicodeDecodeError as error:
        raise NotUbjson(f"a string before byte {reader.at} is not UTF-8") from error
    if reader.at != len(content):
        raise NotUbjson(f"{len(content) - reader.at} bytes follow its end")
    return value


class _Reader:
    def __init__(self, content: bytes) -> None:
        self._content = content
        self.at = 0

    def byte(self) -> int:
        found = self._content[self.at]
        self.at += 1
        return found

    def value(self, marker: int, depth: int) -> Any:
        if marker in _NUMBERS:
            return self._numbers(_NUMBERS[marker], 1).item()
        if marker == ord("S"):
            return self._text()
        if marker in _CONSTANTS:
            return _CONSTANTS[marker]
        if depth == MOST_DEPTH:
            raise NotUbjson(f"it is nested deeper than {MOST_DEPTH} levels at byte {self.at}")
        if marker == ord("{"):
            return self._object(depth + 1)
        if marker == ord("["):
            return self._array(depth + 1)
        raise NotUbjson(f"byte {self.at - 1} is {marker:#04x}, which begins no value")

    def _object(self, depth: int) -> dict[str, Any]:
        found: dict[str, Any] = {}
        while self._content[self.at] != ord("}"):
            key = self._text()
            if key in found:
                raise NotUbjson(f"the key '{key[:64]}' before byte {self.at} is there twice")
            found[key] = self.value(self.byte(), depth)
        self.at += 1
        return found

    def _array(self, depth: int) -> Any:
        kind = None
        if self._content[self.at] == ord("$"):
            kind = self._content[self.at + 1]
            self.at += 2
            if kind in _CONSTANTS:
                raise NotUbjson(f"byte {self.at - 1}: an array of constants, whose length nothing bounds, is not read")
            if self._content[self.at] != ord("#"):
                raise NotUbjson(f"byte {self.at}: a typed array was expected to have a length")
        if self._content[self.at] == ord("#"):
            self.at += 1
            count = self._length()
            if kind is not None and kind in _NUMBERS:
                return self._numbers(_NUMBERS[kind], count)
            return [self.value(self.byte() if kind is None else kind, depth) for _ in range(count)]
        found = []
        while (marker := self.byte()) != ord("]"):
            found.append(self.value(marker, depth))
        return found

    def _numbers(self, dtype: np.dtype[Any], count: int) -> Array:
        if count > (len(self._content) - self.at) // dtype.itemsize:
            raise NotUbjson(f"{count} numbers at byte {self.at} go past its end")
        array = np.frombuffer(self._content, dtype, count, self.at)
        self.at += array.nbytes
        return array.astype(dtype.newbyteorder("="))

    def _text(self) -> str:
        size = self._length()
        found = self._content[self.at : self.at + size]
        self.at += size
        return found.decode()

    def _length(self) -> int:
        """A count of things of at least a byte each, which the content has room for."""
        marker = self.byte()
        if marker not in _INTEGERS:
            raise NotUbjson(f"byte {self.at - 1} is {marker:#04x}; a length was expected")
        count: int = self.value(marker, 0)
        if not 0 <= count <= len(self._content) - self.at:
            raise NotUbjson(f"a length of {count} at byte {self.at} goes past its end")
        return count
