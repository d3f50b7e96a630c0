"""Which copies of targets are whole: one file of lines, since a file for each copy would cost half as much as unpacking it."""

from __future__ import annotations

import errno
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
        self._is_torn = False
        """The last line was cut short by a full disk."""

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
        """Makes the file anew, with these copies; on a full disk the one that is there goes on. Raises `OSError`."""
        part = self._file.with_name(f".{self._file.name}")
        try:
            with part.open("wb") as out:
                out.write(f"{boot}\n".encode())
                out.writelines(_encoded(facts) for facts in copies)
            part.replace(self._file)
            self._is_torn = False
        except OSError:
            part.unlink(missing_ok=True)
            if not self.read(boot):
                raise
            self._is_torn = True
        if self._descriptor >= 0:
            os.close(self._descriptor)
        self._descriptor = os.open(self._file, os.O_WRONLY | os.O_APPEND | os.O_CLOEXEC)
        self._idle = 0

    def made(self, facts: Facts) -> None:
        """A copy is whole. Raises `OSError`."""
        with self._lock:
            self._append(facts)

    def gone(self, place: str) -> None:
        """A copy is about to be removed."""
        with self._lock, suppress(OSError):
            self._idle += 1
            self._append(place)
            if self._idle >= _MOST_IDLE:
                with self._file.open("rb") as lines:
                    boot = lines.readline().decode().strip()
                    self.begin(boot, list(_whole(lines)))

    def _append(self, line: _Line) -> None:
        text = _encoded(line)
        if self._is_torn:
            # What was cut short must not take this line with it.
            text = b"\n" + text
        written = os.write(self._descriptor, text)
        self._is_torn = written < len(text)
        if self._is_torn:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

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
