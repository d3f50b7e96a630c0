"""The log streams of an endpoint as they lie on disk: their events in order, and positions in them that last.

A position names the file by its stream and first line, so that it means the same after the file has become the older one; one in
a file that is gone is the begin of what is left. Source of the files: `serving.telemetry.endpoint_logs`.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import suppress
from hashlib import blake2b
from pathlib import Path
from typing import Final, NamedTuple

import msgspec

from serving.telemetry.endpoint_logs import NAME, OLDER, SUFFIX

_MOST_BYTES: Final = 8 * 1024 * 1024
"""Of a file that are read, several times what a writer lets it grow to."""

_LAST_BYTES: Final = 128 * 1024
"""Where the last line of a file is looked for."""


class Position(NamedTuple):
    """Between two events of a stream: a file, by a number made of its stream's name and first line, and an offset in bytes."""

    file: int
    offset: int


HEAD: Final = Position(0, 0)


class Event(NamedTuple):
    """A log event: epoch milliseconds, text, and the positions before and after it."""

    ms: int
    text: str
    begin: Position
    end: Position


class Span(msgspec.Struct, frozen=True):
    """What a stream holds, without its events: times of the first and the last, when it was last written, bytes."""

    first_ms: int
    last_ms: int
    written_ms: int
    bytes: int


class _Line(msgspec.Struct):
    t: int
    m: str


_decoder = msgspec.json.Decoder(_Line)


class Stream(msgspec.Struct, frozen=True):
    """One log stream: its name, VARIANT/NODE-WORKER, and the file that is written to."""

    name: str
    path: Path

    def events(self, after: Position = HEAD) -> Iterator[Event]:
        """Its events behind a position, in the order in which they were written. Raises `OSError`."""
        files = self._files()
        known = [file for file, _ in files]
        skip = known.index(after.file) if after.file in known else None
        for number, (file, data) in enumerate(files):
            if skip is None or number > skip:
                yield from _events(file, data, 0)
            elif number == skip:
                yield from _events(file, data, after.offset)

    def before(self, position: Position) -> list[Event]:
        """Its events before a position, in the order in which they were written. Raises `OSError`."""
        events: list[Event] = []
        for file, data in self._files():
            if file == position.file:
                return events + [event for event in _events(file, data, 0) if event.end.offset <= position.offset]
            events.extend(_events(file, data, 0))
        return []

    def end(self) -> Position:
        """The position behind all that was written."""
        files = self._files()
        return Position(files[-1][0], len(files[-1][1])) if files else HEAD

    def span(self) -> Span | None:
        """What it holds; None where it has gone meanwhile."""
        size, edges, written = 0, [], 0.0
        for path in (self.path.with_name(self.path.name.removesuffix(SUFFIX) + OLDER), self.path):
            with suppress(FileNotFoundError), path.open("rb") as file:
                state = os.fstat(file.fileno())
                size, written = size + state.st_size, max(written, state.st_mtime)
                first = next(_events(0, file.readline(), 0), None)
                file.seek(max(0, state.st_size - _LAST_BYTES))
                *_, last = (first, *_events(0, file.read(_LAST_BYTES), 0))
                edges += [event.ms for event in (first, last) if event is not None]
        return Span(min(edges), max(edges), int(written * 1000), size) if edges else None

    def _files(self) -> list[tuple[int, bytes]]:
        """The older file and the present one, where they are: their numbers and whole lines."""
        present = self._read(self.path)
        older = self._read(self.path.with_name(self.path.name.removesuffix(SUFFIX) + OLDER))
        if present is not None and older is not None and present[0] == older[0]:
            # It became the older one in between.
            present = self._read(self.path)
        return [found for found in (older, present) if found is not None]

    def _read(self, path: Path) -> tuple[int, bytes] | None:
        try:
            with path.open("rb") as file:
                data = file.read(_MOST_BYTES)
        except FileNotFoundError:
            return None
        data = data[: data.rfind(b"\n") + 1]
        if not data:
            return None
        digest = blake2b(self.name.encode() + data[: data.index(b"\n")], digest_size=8).digest()
        return int.from_bytes(digest, "big") or 1, data


def streams(group: Path) -> list[Stream]:
    """The streams under an endpoint's folder, by name. Raises `OSError`; `FileNotFoundError` where there is none."""
    found: list[Stream] = []
    for variant in group.iterdir():
        if NAME.fullmatch(variant.name):
            with suppress(FileNotFoundError, NotADirectoryError):
                names = {path.name.removesuffix(OLDER).removesuffix(SUFFIX) for path in variant.iterdir()}
                found += [Stream(f"{variant.name}/{name}", variant / f"{name}{SUFFIX}") for name in names]
    return sorted(found, key=lambda stream: stream.name)


def _events(file: int, data: bytes, offset: int) -> Iterator[Event]:
    """The events in whole lines from an offset on; a line that is none (cut short by a full disk) is passed over."""
    while (end := data.find(b"\n", offset) + 1) > 0:
        with suppress(msgspec.DecodeError, UnicodeDecodeError):
            line = _decoder.decode(data[offset : end - 1])
            yield Event(line.t, line.m, Position(file, offset), Position(file, end))
        offset = end
