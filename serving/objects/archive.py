"""Model archives: gzipped tars, hostile until proved otherwise, unpacked once into the state directory.

Only plain files and directories come out of one, below its own directory and within bounds; anything else is an error,
and then nothing stays behind. Unpacked archives are kept under the SHA-256 of their bytes, so that an archive that is
served again is not unpacked again.
"""

from __future__ import annotations

import fcntl
import hashlib
import io
import os
import shutil
import tarfile
import tempfile
import unicodedata
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path, PurePosixPath
from stat import S_ISREG
from typing import IO, Any, Final

import msgspec
from isal import isal_zlib

from serving.errors import ArtifactError

_PIECE_BYTES: Final = 64 * 1024
"""What is inflated at a time: larger buffers come fresh from the kernel, page by page, each time."""

GZIP_MAGIC: Final = b"\x1f\x8b"

_GZIP: Final = 16 + isal_zlib.MAX_WBITS
"""What zlib calls it."""

_FAULT: Final[type[Exception]] = isal_zlib.error  # type: ignore[assignment]
"""What it raises at damaged bytes; the package's stubs have another name for it."""

MOST_HEADER_BYTES: Final = 1024 * 1024
"""Extended headers are read into memory whole; real ones have a few hundred bytes."""

JUNK: Final = ("._", ".DS_Store", "__MACOSX", "PaxHeader")
"""How what macOS and old tars leave in an archive is called; it is passed over."""


class Limits(msgspec.Struct, frozen=True):
    """What an archive may hold: bytes once inflated, members, bytes of a path, and times its own size.

    The ratio only counts beyond `ratio_from_bytes`, since a few MB of zeros are nothing unusual.
    """

    max_bytes: int = 10 * 1024**3
    max_members: int = 10_000
    max_name_bytes: int = 1024
    max_part_bytes: int = 255
    max_depth: int = 32
    max_ratio: int = 200
    ratio_from_bytes: int = 64 * 1024**2


class Content(msgspec.Struct, frozen=True):
    """What came out of an archive: bytes in all its files, and how many files and directories there are at most."""

    bytes: int
    entries: int


def extract(archive: Path, target: Path, limits: Limits, grown: Callable[[int], None] | None = None) -> Content:
    """Unpacks an archive into the empty directory `target`; on an error what came out so far stays.

    `grown` is told how many bytes the archive has been inflated to so far; what it raises ends the work.
    Raises `ArtifactError`, which names the archive and the member, and `OSError`.
    """
    with archive.open("rb") as stream:
        return _extract(stream, archive, target, limits, grown)


class Archives(msgspec.Struct, frozen=True):
    """The archives that were unpacked under `directory`."""

    directory: Path
    limits: Limits = Limits()

    def unpack(self, archive: Path) -> Path:
        """The directory with the archive's content. Raises `ArtifactError`, which names the archive and the member."""
        try:
            if not S_ISREG(archive.stat().st_mode):
                # Opening a pipe would wait for ever.
                raise ArtifactError(f"{archive} is not a plain file; a gzipped tar was expected")
            with archive.open("rb") as stream:
                target = self.directory / _digest(stream)
                if target.is_dir():
                    return target
                self.directory.mkdir(mode=0o700, parents=True, exist_ok=True)
                with _locked(self.directory / ".lock"):
                    if not target.is_dir():
                        stream.seek(0)
                        self._unpack(stream, archive, target)
                return target
        except OSError as error:
            raise ArtifactError(f"{archive} cannot be unpacked: {error.strerror or error}") from error

    def _unpack(self, stream: IO[bytes], archive: Path, target: Path) -> None:
        # Under the lock, what lies here half done was left by a process that was killed.
        for left in self.directory.glob(".part-*"):
            shutil.rmtree(left)
        part = Path(tempfile.mkdtemp(prefix=".part-", dir=self.directory))
        try:
            _extract(stream, archive, part, self.limits)
            part.chmod(0o755)
            part.rename(target)
        except BaseException:
            shutil.rmtree(part, ignore_errors=True)
            raise


class _Damaged(Exception):
    """What is no gzip; not zlib's own error, which tarfile takes for one of a tar."""


class _Inflated(io.RawIOBase):
    """The bytes of a gzip file, forward only and within bounds, in the form that tarfile reads.

    It inflates by itself, since `gzip` does so in pieces of a few KiB, which takes half as long again, and by ISA-L, which
    takes half of zlib's time.
    """

    def __init__(self, stream: IO[bytes], archive: Path, limits: Limits, grown: Callable[[int], None] | None) -> None:
        self._stream = stream
        self._inflater = isal_zlib.decompressobj(_GZIP)
        self._deflated = b""
        self._ahead = b""
        self._position = 0
        self._archive = archive
        size = os.fstat(stream.fileno()).st_size
        self._ratio_bytes = max(limits.ratio_from_bytes, size * limits.max_ratio)
        self._limits = limits
        self._grown = grown

    def read(self, size: int = -1) -> bytes:
        if size < 0 or size > MOST_HEADER_BYTES:
            raise ArtifactError(f"{self._archive}: a header in it takes more than {MOST_HEADER_BYTES} bytes")
        data = self._take(size)
        self._position += len(data)
        if self._position > self._limits.max_bytes:
            raise ArtifactError(f"{self._archive} inflates to more than {self._limits.max_bytes} bytes, the limit")
        if self._position > self._ratio_bytes:
            raise ArtifactError(
                f"{self._archive} inflates to more than {self._limits.max_ratio} times its size, as a bomb does"
            )
        if self._grown is not None:
            self._grown(self._position)
        return data

    def _take(self, size: int) -> bytes:
        """So many bytes, or fewer at the end."""
        parts, left = [], size
        while left:
            if not self._ahead:
                self._ahead = self._inflate(max(left, _PIECE_BYTES))
                if not self._ahead:
                    break
            part = self._ahead[:left]
            self._ahead = self._ahead[left:]
            parts.append(part)
            left -= len(part)
        return parts[0] if len(parts) == 1 else b"".join(parts)

    def _inflate(self, most: int) -> bytes:
        """The next bytes, at most so many; none at the end. A gzip file may have several members, and zeros after them."""
        while True:
            if self._inflater.eof:
                self._deflated = self._inflater.unused_data.lstrip(b"\0")
                while not self._deflated:
                    more = self._stream.read(_PIECE_BYTES)
                    if not more:
                        return b""
                    self._deflated = more.lstrip(b"\0")
                self._inflater = isal_zlib.decompressobj(_GZIP)
            if not self._deflated:
                self._deflated = self._stream.read(_PIECE_BYTES)
                if not self._deflated:
                    if not self._stream.tell():
                        return b""
                    raise EOFError
            try:
                data = self._inflater.decompress(self._deflated, most)
            except _FAULT as error:
                raise _Damaged(str(error)) from error
            self._deflated = self._inflater.unconsumed_tail
            if data:
                return data

    def tell(self) -> int:
        return self._position

    def seek(self, offset: int, whence: int = os.SEEK_SET) -> int:
        if whence != os.SEEK_SET or offset < self._position:
            raise ArtifactError(f"{self._archive}: a member's size in it is not possible")
        while self._position < offset and self.read(min(_PIECE_BYTES, offset - self._position)):
            pass
        return self._position

    def seekable(self) -> bool:
        return True

    def readable(self) -> bool:
        return True

    def drain(self) -> None:
        """Reads to the end, where the checksum is."""
        while self.read(_PIECE_BYTES):
            pass


def _extract(
    stream: IO[bytes], archive: Path, target: Path, limits: Limits, grown: Callable[[int], None] | None = None
) -> Content:
    inflated = _Inflated(stream, archive, limits, grown)
    count = entries = size = 0
    try:
        with tarfile.open(fileobj=inflated, mode="r:", errorlevel=2) as tar:
            for member in tar:
                count += 1
                if count > limits.max_members:
                    raise ArtifactError(f"{archive} has more than {limits.max_members} members, the limit")
                path = _path(member, archive, limits)
                if any(part.startswith(JUNK) for part in path.parts) or not path.parts:
                    continue
                _write(inflated, member, target / path, archive)
                entries += len(path.parts)
                size += member.size
        inflated.drain()
    except (EOFError, _Damaged) as error:
        stream.seek(0)
        if stream.read(len(GZIP_MAGIC)) != GZIP_MAGIC:
            raise ArtifactError(f"{archive} is not a gzip file; a gzipped tar (tar -czf) was expected") from error
        if isinstance(error, EOFError):
            raise ArtifactError(f"{archive} is cut short; copy it again") from error
        raise ArtifactError(f"{archive} is damaged ({error}); a gzipped tar (tar -czf) was expected") from error
    except (tarfile.TarError, RecursionError, ValueError, OverflowError) as error:
        if inflated.tell() == 0:
            raise _empty(archive) from error
        raise ArtifactError(f"{archive} is not a tar inside: {error}; a gzipped tar (tar -czf) was expected") from error
    if not count:
        raise _empty(archive)
    return Content(size, entries)


def _empty(archive: Path) -> ArtifactError:
    return ArtifactError(f"{archive} is empty; a gzipped tar (tar -czf) of a model's directory was expected")


def _path(member: tarfile.TarInfo, archive: Path, limits: Limits) -> PurePosixPath:
    """Where the member goes below the archive's directory."""
    name = member.name
    where = f"{archive}: the member {_shown(name)}"
    if any(unicodedata.category(letter) in ("Cc", "Cs") for letter in name) or "\\" in name:
        raise ArtifactError(f"{where} has a control character, a backslash or bytes that are not UTF-8 in its name")
    path = PurePosixPath(name)
    if path.is_absolute():
        raise ArtifactError(f"{where} has an absolute path; a path inside the archive was expected")
    if ".." in path.parts:
        raise ArtifactError(f"{where} leaves the archive's directory by '..'")
    longest = max((len(part.encode()) for part in path.parts), default=0)
    if len(name.encode()) > limits.max_name_bytes or longest > limits.max_part_bytes:
        raise ArtifactError(
            f"{where} has a name that is too long; up to {limits.max_name_bytes} bytes, "
            f"{limits.max_part_bytes} between slashes, are allowed"
        )
    if len(path.parts) > limits.max_depth:
        raise ArtifactError(f"{where} lies {len(path.parts)} directories deep; {limits.max_depth} are allowed")
    if member.issym() or member.islnk():
        raise ArtifactError(
            f"{where} is a link; pack the file that it points to (tar --dereference --hard-dereference)"
        )
    if member.issparse() or not (member.isreg() or member.isdir()):
        raise ArtifactError(f"{where} is neither a plain file nor a directory (its tar type is {member.type!r})")
    if member.size < 0:
        raise ArtifactError(f"{where} has a size of {member.size} bytes, which is not possible")
    return path


def _write(inflated: _Inflated, member: tarfile.TarInfo, path: Path, archive: Path) -> None:
    where = f"{archive}: the member {_shown(member.name)}"
    try:
        if member.isdir():
            path.mkdir(mode=0o755, parents=True, exist_ok=True)
            return
        path.parent.mkdir(mode=0o755, parents=True, exist_ok=True)
        target = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW, 0o644)
    except (FileExistsError, NotADirectoryError) as error:
        raise ArtifactError(f"{where} is there twice, or as a file and as a directory") from error
    with os.fdopen(target, "wb") as out:
        inflated.seek(member.offset_data)
        left = member.size
        while left:
            data = inflated.read(min(_PIECE_BYTES, left))
            if not data:
                raise EOFError
            out.write(data)
            left -= len(data)


def _digest(stream: IO[bytes]) -> str:
    digest = hashlib.file_digest(stream, "sha256")  # type: ignore[arg-type]
    return digest.hexdigest()


@contextmanager
def _locked(file: Path) -> Iterator[None]:
    """Holds the lock file, against other processes that unpack into the same directory."""
    with file.open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield


def _shown(name: str) -> str:
    text: Any = ascii(name)
    return text if len(text) <= 120 else f"{text[:120]}..."
