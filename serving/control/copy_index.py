"""Which copies of targets are whole: one file of lines, since a file for each copy would cost half as much as unpacking it."""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator
from contextlib import suppress
from pathlib import Path
from threading import Lock
from typing import Final

import msgspec

_MOST_IDLE: Final = 4096
"""Lines of copies that have gone, before the file is written anew."""


class Facts(msgspec.Struct, frozen=True, array_like=True):
    """A copy: its folder's name, the URL and revision of the object, its bytes on disk, and those of its content.

    `file`: the name of the file that it is; "" for what an archive held.
    """

    place: str
    url: str
    revision: str
    bytes: int
    content_bytes: int
    file: str = ""


_Line = Facts | str
"""A copy that is whole; or the folder's name of one that is about to be removed."""


class CopyIndex:
    """The index in `file`; its first line says which start of the machine it is of. Only one server writes it."""

    def __init__(self, file: Path) -> None:
        self._file = file
        self._lock = Lock()
        self._descriptor = -1
        self._idle = 0

    def read(self, boot: str) -> list[Facts]:
        """The copies in the order in which they were made; none where the machine has been started since."""
        try:
            with self._file.open("rb") as lines:
                if lines.readline().decode("ascii", "replace").strip() != boot:
                    return []
                return list(_whole(lines))
        except OSError:
            return []

    def begin(self, boot: str, copies: Iterable[Facts]) -> None:
        """Makes the file anew, with these copies. Raises `OSError`."""
        part = self._file.with_name(f".{self._file.name}")
        with part.open("wb") as out:
            out.write(f"{boot}\n".encode())
            out.writelines(_encoded(facts) for facts in copies)
        part.replace(self._file)
        if self._descriptor >= 0:
            os.close(self._descriptor)
        self._descriptor = os.open(self._file, os.O_WRONLY | os.O_APPEND | os.O_CLOEXEC)
        self._idle = 0

    def made(self, facts: Facts) -> None:
        """A copy is whole. Raises `OSError`."""
        with self._lock:
            os.write(self._descriptor, _encoded(facts))

    def gone(self, place: str) -> None:
        """A copy is about to be removed."""
        with self._lock, suppress(OSError):
            os.write(self._descriptor, _encoded(place))
            self._idle += 1
            if self._idle >= _MOST_IDLE:
                with self._file.open("rb") as lines:
                    boot = lines.readline().decode().strip()
                    self.begin(boot, list(_whole(lines)))

    def close(self) -> None:
        """Ends the use of the file."""
        with self._lock:
            if self._descriptor >= 0:
                os.close(self._descriptor)
            self._descriptor = -1


def _encoded(line: _Line) -> bytes:
    return msgspec.json.encode(line) + b"\n"


def _whole(lines: Iterable[bytes]) -> Iterator[Facts]:
    """What the lines say is whole; one that a crash cut short says nothing."""
    found: dict[str, Facts] = {}
    for text in lines:
        try:
            line = msgspec.json.decode(text, type=_Line)
        except msgspec.DecodeError:
            continue
        if isinstance(line, str):
            found.pop(line, None)
        else:
            found[line.place] = line
    return iter(found.values())
