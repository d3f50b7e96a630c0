"""The folder in which targets of multi-model endpoints lie, fetched and unpacked: one copy of each object, under one budget.

Copies are not synced, since they can be fetched again: they survive a restart of the server, and none is believed once the
machine itself has been restarted. A folder that the index does not name was left half-made, and does not count.
"""

from __future__ import annotations

import errno
import logging
import os
import shutil
from collections import Counter
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
from itertools import count
from pathlib import Path, PurePosixPath
from threading import Condition, Semaphore
from time import monotonic, time_ns
from typing import TYPE_CHECKING, Final
from urllib.parse import unquote

from serving.control.copy_index import CopyIndex, Facts
from serving.errors import ArtifactError, ConfigurationError, ObjectChanged, ServingError, Unavailable
from serving.objects import repository
from serving.objects.archive import GZIP_MAGIC, Content, Limits, extract
from serving.objects.disk_cache import Copy, DiskCache

if TYPE_CHECKING:
    from serving.objects.store import ObjectInfo, ObjectStore

log = logging.getLogger("serving.targets")

BOOT: Final = Path("/proc/sys/kernel/random/boot_id")
"""Source: proc_sys_kernel(5)."""

FULL_S: Final = 5.0
"""How long a full disk is believed to stay full."""

ROOM_S: Final = 10.0
"""How long room is waited for that copies take which are being read."""

TURN_S: Final = 1.0
"""How long an archive waits for others to be unpacked, which takes milliseconds, or else minutes."""

_INDEX: Final = "index"
_OBJECT: Final = ".object"
"""What follows the name of a copy's folder in that of the fetched archive beside it."""

_GONE: Final = ".gone"
"""What follows it while the copy is removed."""

_BLOCK_BYTES: Final = 4096
_FULL: Final = frozenset({errno.ENOSPC, errno.EDQUOT})


class DiskFull(ArtifactError):
    """The server's disk is full."""


class TargetCopies:
    """The copies under `directory`, which no other server uses. Its methods may be called on any thread; `make` blocks."""

    def __init__(
        self, directory: Path, objects: ObjectStore, limits: Limits, budget: int | None, boot: Path = BOOT
    ) -> None:
        self._directory = directory
        self._objects = objects
        self._limits = limits
        self._given = budget
        self._boot = boot
        self._cache = DiskCache(budget or 0)
        self._room = Condition()
        # Unpacking takes a core, and workers that answer requests want them as well.
        self._turns = Semaphore(max(len(os.sched_getaffinity(0)) // 2, 1))
        self._index = CopyIndex(directory / _INDEX)
        self._started = time_ns()
        self._numbers = count(1)
        self.removed: Counter[str] = Counter()

    @property
    def budget(self) -> int:
        """Bytes that copies may take."""
        return self._cache.budget

    @property
    def used(self) -> int:
        """Bytes that they take, with those in the making."""
        return self._cache.used

    def __len__(self) -> int:
        return len(self._cache)

    def open(self) -> None:
        """Finds what an earlier start left, and removes what is not to be believed. Blocks. Raises `OSError`."""
        self._directory.mkdir(mode=0o700, parents=True, exist_ok=True)
        boot = self._boot.read_text().strip()
        found = [facts for facts in self._index.read(boot) if (self._directory / facts.place).is_dir()]
        known = {_INDEX, *(facts.place for facts in found)}
        for path in list(self._directory.iterdir()):
            if path.name not in known:
                _remove(path)
        self._index.begin(boot, found)
        if self._given is None:
            used = sum(facts.bytes for facts in found)
            self._cache.budget = (shutil.disk_usage(self._directory).free + used) // 2
        for facts in found:
            self._gone(self._cache.add(_copy(facts)), "room")

    def close(self) -> None:
        """Makes no more copies."""
        self._index.close()

    # ------------------------------------------------------------------ copies that are here

    def find(self, url: str) -> Copy | None:
        """The copy of an object."""
        return self._cache.find(url)

    def hold(self, copy: Copy) -> bool:
        """Keeps a copy on disk until it is released; False where it has gone meanwhile."""
        with self._room:
            if copy.leaving and not copy.holds:
                return False
            self._cache.hold(copy)
            return True

    def release(self, copy: Copy) -> bool:
        """Takes a hold back: whether its files are to be removed, which `remove` does."""
        with self._room:
            gone = self._cache.release(copy)
            self._room.notify_all()
        return bool(gone)

    def remove(self, copy: Copy) -> None:
        """Removes the files of a copy that has gone. Blocks."""
        self._index.gone(copy.place)
        _remove(self.place(copy))

    def discard(self, copy: Copy, reason: str) -> None:
        """No longer finds a copy. Blocks where nobody reads it, to remove it."""
        with self._room:
            gone = self._cache.discard(copy.url) if self._cache.find(copy.url) is copy else []
        self._gone(gone, reason)

    def measure(self, copy: Copy) -> None:
        """Counts what containers keep beside a model. Blocks."""
        taken, entries = 0, 1
        for base, folders, files in os.walk(self.place(copy)):
            entries += len(folders) + len(files)
            with suppress(FileNotFoundError):
                taken += sum(Path(base, file).stat().st_size for file in files)
        with self._room:
            gone = [] if copy.leaving else self._cache.resize(copy, taken + entries * _BLOCK_BYTES)
        self._gone(gone, "room")

    def place(self, copy: Copy) -> Path:
        """The folder of a copy."""
        return self._directory / copy.place

    def files(self, copy: Copy) -> Path:
        """What a copy holds: the folder of an archive, or the model's file."""
        return self.place(copy) / copy.file

    # ------------------------------------------------------------------ copies in the making

    def make(self, url: str, timeout_s: float) -> Copy:
        """Fetches an object and unpacks it; the copy is held once, for the caller.

        An object that is replaced meanwhile is read once more. Raises `ArtifactError`s, of which `DiskFull` is one, in
        the user's words, and `Unavailable` where there is no room now.
        """
        try:
            return self._make(url, timeout_s)
        except ObjectChanged:
            return self._make(url, timeout_s)

    def _make(self, url: str, timeout_s: float) -> Copy:
        place = self._directory / f"{self._started:x}-{next(self._numbers)}"
        began = monotonic()
        try:
            place.mkdir(mode=0o755)
            info, content, file = self._fill(url, place, timeout_s)
            taken = content.bytes + (content.entries + 1) * _BLOCK_BYTES
            self._set_aside(url, taken)
            facts = Facts(place.name, url, revision_of(info), taken, content.bytes, file)
            self._index.made(facts)
        except BaseException as error:
            _remove(place.with_name(f"{place.name}{_OBJECT}"))
            _remove(place)
            with self._room:
                self._cache.give_back(url)
                self._room.notify_all()
            worded = _worded(error, url, place)
            if worded is None:
                raise
            raise worded from error
        copy = _copy(facts)
        copy.looked_at, copy.holds = began, 1
        with self._room:
            gone = self._cache.add(copy)
            self._room.notify_all()
        self._gone(gone, "room")
        return copy

    def _fill(self, url: str, place: Path, timeout_s: float) -> tuple[ObjectInfo, Content, str]:
        """Fetches and unpacks an object: what it is, what came out of it, and the name of the file that it is."""
        fetched = place.with_name(f"{place.name}{_OBJECT}")
        info = self._objects.fetch(
            url, fetched, timeout_s=timeout_s, accept=lambda info: self._set_aside(url, info.size), sync=False
        )
        if not file_name(url).endswith(repository.ARCHIVE_SUFFIXES) and self._is_plain(url, fetched, place):
            return info, Content(info.size, 1), file_name(url)
        with self._unpacking():
            content = extract(fetched, place, self._limits, lambda grown: self._set_aside(url, info.size + grown))
        fetched.unlink()
        return info, content, ""

    @contextmanager
    def _unpacking(self) -> Iterator[None]:
        """One's turn to unpack, or the end of waiting for it."""
        turn = self._turns.acquire(timeout=TURN_S)
        try:
            yield
        finally:
            if turn:
                self._turns.release()

    def _is_plain(self, url: str, fetched: Path, place: Path) -> bool:
        """Whether it is a model's file as it is, and then puts it in its place; else it may be an archive by another name."""
        plain = fetched.rename(place / file_name(url))
        try:
            is_model = repository.is_candidate(plain)
        except ConfigurationError:
            # More than one kind takes it; the endpoint's is one of them, or it is said when that is looked at.
            is_model = True
        if is_model:
            return True
        with plain.open("rb") as stream:
            if stream.read(len(GZIP_MAGIC)) != GZIP_MAGIC:
                raise ArtifactError(
                    f"{url} is neither a gzipped tar nor a model's file (.onnx, .skops, an XGBoost or LightGBM booster)"
                )
        plain.rename(fetched)
        return False

    def _set_aside(self, url: str, needed: int) -> None:
        """Makes room for so many bytes of the copy, or waits for it."""
        if needed > self.budget:
            raise ArtifactError(
                f"{url} takes more of the disk than the {self.budget} bytes that models may take there (model_cache_disk_bytes)"
            )
        ends = monotonic() + ROOM_S
        with self._room:
            while (gone := self._cache.set_aside(url, needed, shutil.disk_usage(self._directory).free)) is None:
                if not self._cache.is_busy(url):
                    raise DiskFull(f"{url} takes {needed} bytes, and the server's disk is full")
                if not self._room.wait(ends - monotonic()):
                    raise Unavailable(
                        f"{url} has to wait for disk: what models may take of it is taken by others that are being loaded",
                        retry_after_s=1.0,
                    )
        self._gone(gone, "room")

    def _gone(self, gone: Iterable[Copy], reason: str) -> None:
        for copy in gone:
            why = "replaced" if self._cache.find(copy.url) is not None else reason
            self.removed[why] += 1
            log.debug("%s: its copy of %d bytes is removed from disk: %s", copy.url, copy.bytes, why)
            self.remove(copy)


def revision_of(info: ObjectInfo) -> str:
    """What names the content of an object: its ETag, or what else tells one from the next."""
    return info.etag or f"{info.size:x}-{info.modified:.6f}"


def file_name(url: str) -> str:
    """The name of an object's file on disk; what is too long for a disk keeps its end."""
    text = unquote(url, errors="surrogateescape") if not url.startswith("s3://") else url
    name = PurePosixPath(text).name
    if len(name.encode(errors="surrogateescape")) <= 255:
        return name
    return f"model{PurePosixPath(name).suffix}"


def _copy(facts: Facts) -> Copy:
    return Copy(facts.url, facts.revision, facts.place, facts.bytes, facts.content_bytes, facts.file)


def _remove(path: Path) -> None:
    try:
        path.unlink()
    except FileNotFoundError:
        return
    except OSError:
        # Under another name first: a full disk may not take the index's line, and half of a copy must not pass for one.
        gone = path.with_name(f"{path.name}{_GONE}")
        with suppress(OSError):
            path = path.rename(gone)
        shutil.rmtree(path, ignore_errors=True)


def _worded(error: BaseException, url: str, place: Path) -> ServingError | None:
    """The error in words of the user, who knows the object's URL and nothing of the disk; None where it is in them."""
    cause = error if isinstance(error, OSError) else error.__cause__
    if isinstance(cause, OSError) and cause.errno in _FULL:
        return DiskFull(f"{url} cannot be kept: the server's disk is full")
    if isinstance(error, OSError):
        return ArtifactError(f"{url} cannot be kept on the server's disk: {error.strerror or error}")
    if isinstance(error, ServingError) and str(place) in error.message:
        return type(error)(told(error.message, url, place))
    return None


def told(text: str, url: str, place: Path) -> str:
    """A text about a copy with the object's URL in place of local paths."""
    for path in (place / file_name(url), f"{place}{_OBJECT}", place):
        text = text.replace(str(path), url)
    return text
