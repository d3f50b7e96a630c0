"""Notices that models on disk have changed, by `stat` alone: no file is opened.

Hidden files (those whose name begins with a dot) do not count, so that what containers keep beside a model is no change
of it.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping
from contextlib import suppress
from itertools import islice
from pathlib import Path
from typing import Final, NamedTuple

MOST_FILES: Final = 10_000
"""A model of more files than an archive may hold is some other directory."""

MOST_DEPTH: Final = 32


class FileState(NamedTuple):
    """One file of a model: its path inside (POSIX), and what tells whether it is still the same."""

    path: str
    size: int
    mtime_ns: int
    inode: int


Fingerprint = tuple[FileState, ...]
"""The files of a model, in order of their paths."""


class Place(NamedTuple):
    """Where a model is looked for, and under which name (None: its own)."""

    path: Path
    name: str | None = None


def fingerprint(path: Path) -> Fingerprint:
    """The files of the model at `path` as they are now; empty where there is none, cut off past `MOST_FILES`.

    A model that is one file has the files beside it whose names are usual for its weights, and its `model.yaml`.
    """
    try:
        if path.is_dir():
            return tuple(sorted(islice(_walk(path, "", 0), MOST_FILES + 1)))
        return tuple(sorted(_state(file, file.name) for file in companions(path)))
    except FileNotFoundError:
        return ()
    except OSError as error:
        # What cannot be read is not gone; whoever opens it says why.
        return (FileState(f"({error.strerror})", 0, 0, 0),)


def companions(path: Path) -> list[Path]:
    """The file itself, and the files beside it that go with it."""
    stem, name = path.stem, path.name
    beside = [f"{name}.data", f"{name}_data", f"{stem}.data", f"{stem}.bin", f"{stem}.weights"]
    if stem == "model":
        beside.append("model.yaml")
    return [path, *(other for other in (path.with_name(one) for one in beside) if other != path and other.is_file())]


def _walk(directory: Path, prefix: str, depth: int) -> Iterator[FileState]:
    """The files below; one that leaves while it is looked at is none of them."""
    try:
        found = os.scandir(directory)
    except FileNotFoundError:
        return
    with found as entries:
        for entry in entries:
            if entry.name.startswith("."):
                continue
            # Links to directories may lead anywhere, also here: only a version may be one.
            if entry.is_dir(follow_symlinks=not depth and entry.name.isdecimal()):
                if depth < MOST_DEPTH:
                    yield from _walk(Path(entry.path), f"{prefix}{entry.name}/", depth + 1)
            elif not (entry.is_symlink() and entry.is_dir()):
                with suppress(FileNotFoundError):
                    yield _state(entry, prefix + entry.name)


def _state(file: Path | os.DirEntry[str], name: str) -> FileState:
    status = file.stat() if isinstance(file, Path) else _follow(file)
    return FileState(name, status.st_size, status.st_mtime_ns, status.st_ino)


def _follow(entry: os.DirEntry[str]) -> os.stat_result:
    try:
        return entry.stat()
    except FileNotFoundError:
        # A link that points nowhere is a file by itself.
        return entry.stat(follow_symlinks=False)


def inside(files: Fingerprint, directory: str) -> Fingerprint:
    """The files below a directory of the model, with their paths from there; all of them for `""`."""
    if not directory:
        return files
    start = f"{directory}/"
    return tuple(state._replace(path=state.path[len(start) :]) for state in files if state.path.startswith(start))


class Watcher:
    """Which models have changed since they were taken: told once they look the same twice.

    Pure: it is shown what there is, and says what of it is new. So a file that is being written is left alone, and a
    model that is away for a moment while it is replaced is not gone.
    """

    def __init__(self, taken: Mapping[Place, Fingerprint]) -> None:
        self._taken = dict(taken)
        self._before: Mapping[Place, Fingerprint] = dict(taken)

    def observe(self, now: Mapping[Place, Fingerprint]) -> tuple[list[Place], list[Place]]:
        """What has changed or is new, and what is gone."""
        before, self._before = self._before, dict(now)
        changed = [
            place for place, files in now.items() if files and files == before.get(place) != self._taken.get(place)
        ]
        gone = [place for place in self._taken if not now.get(place) and not before.get(place)]
        for place in changed:
            self._taken[place] = now[place]
        for place in gone:
            del self._taken[place]
        return changed, gone

    def again(self, place: Place) -> None:
        """The place changed while it was taken: it is told again."""
        if place in self._taken:
            self._taken[place] = ()
