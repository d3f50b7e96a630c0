"""Model data on this machine's disk: fetched once for each URL and state of the object, whole or not at all.

An artifact is a folder named after where its data came from and what it was like (its revision: the object's ETag, or a
digest of the ETags below a prefix). It is made under another name, synced and renamed, so that a crash leaves nothing
half-made that counts. What containers keep beside a model (converted trees) lies in it and goes with it.
"""

from __future__ import annotations

import hashlib
import os
import shutil
import tempfile
from collections.abc import Collection, Iterator
from concurrent.futures import ThreadPoolExecutor
from itertools import islice
from pathlib import Path, PurePosixPath
from time import monotonic
from typing import TYPE_CHECKING, Final
from urllib.parse import unquote

import msgspec

from serving.control.plan import Source
from serving.errors import ArtifactError, ObjectChanged, ObjectMissing, ServingError
from serving.objects.archive import Archives, Limits

if TYPE_CHECKING:
    from serving.objects.store import ObjectInfo, ObjectStore

Key = tuple[Source, str]
"""Where data came from, and its revision."""

_PART: Final = ".part-"
_GONE: Final = ".gone-"
_FILES: Final = "files"
_FACTS: Final = "artifact.json"
_AT_ONCE: Final = 8
"""Objects below a prefix that are fetched at a time."""
_ARCHIVE: Final = "model.tar.gz"


class Artifact(msgspec.Struct, frozen=True):
    """Model data on disk: its files are below `root`, `bytes` in all."""

    source: Source
    revision: str
    bytes: int
    root: Path

    @property
    def file(self) -> Path:
        """The file, where the data is one object."""
        return self.root / name_of(self.source.url)

    def told(self, text: str) -> str:
        """A text with the URL in place of local paths, as the user knows the data."""
        if self.source.form == "object":
            text = text.replace(str(self.file), self.source.url)
        for place in (self.root, self.root.parent):
            text = text.replace(str(place), self.source.url.rstrip("/"))
        return text

    def archives(self, limits: Limits) -> Archives:
        """Where archives in it are unpacked, so that they go with it."""
        return Archives(self.root.with_name("unpacked"), limits)


class _Facts(msgspec.Struct, frozen=True):
    source: Source
    revision: str
    bytes: int


class Artifacts:
    """The artifacts under `directory`, which no other server uses. Its methods block; several may run at once."""

    def __init__(self, directory: Path, objects: ObjectStore, limits: Limits) -> None:
        self._directory = directory
        self._objects = objects
        self._limits = limits

    def have(self, source: Source, revision: str) -> Artifact | None:
        """The artifact where it is here already; the object store is not asked."""
        place = self._place((source, revision))
        try:
            facts = msgspec.json.decode((place / _FACTS).read_bytes(), type=_Facts)
        except (OSError, msgspec.DecodeError):
            return None
        if (facts.source, facts.revision) != (source, revision) or not (place / _FILES).is_dir():
            return None
        return Artifact(source, revision, facts.bytes, place / _FILES)

    def fetch(self, source: Source, revision: str | None, timeout_s: float) -> Artifact:
        """The artifact, fetched unless it is here. With a `revision` only that one will do.

        An object that is replaced while it is read is read once more. Raises `ArtifactError`, and `ObjectStoreUnavailable`
        after `timeout_s` seconds too.
        """
        ends = monotonic() + timeout_s
        if revision is not None and (found := self.have(source, revision)) is not None:
            return found
        try:
            try:
                return self._fetch(source, revision, ends)
            except ObjectChanged:
                if revision is not None:
                    raise
                return self._fetch(source, None, ends)
        except ObjectChanged as error:
            if revision is None:
                raise
            raise ObjectChanged(
                f"{source.url} is no longer what it was when the endpoint was deployed (its ETag was {revision}); update "
                "the endpoint to serve what is there now"
            ) from error
        except OSError as error:
            raise ArtifactError(
                f"{source.url} cannot be kept on the server's disk: {error.strerror or error}"
            ) from error

    def keep(self, used: Collection[Key]) -> list[Path]:
        """Takes away all artifacts but those `used`, and what a crash left; gives what is to be removed by `remove`."""
        wanted = {self._place(key).name for key in used}
        taken: list[Path] = []
        if not self._directory.is_dir():
            return taken
        for path in list(self._directory.iterdir()):
            if path.name in wanted:
                continue
            if not path.name.startswith(_GONE):
                gone = path.with_name(f"{_GONE}{path.name}")
                shutil.rmtree(gone, ignore_errors=True)
                path = path.rename(gone)  # noqa: PLW2901 - it has another name now
            taken.append(path)
        return taken

    # ------------------------------------------------------------------ fetching

    def _fetch(self, source: Source, revision: str | None, ends: float) -> Artifact:
        infos, names = self._listed(source)
        now = _revision(source, infos, names)
        if revision is not None and now != revision:
            raise ObjectChanged(f"{source.url}: {ObjectChanged.__doc__}")
        if (found := self.have(source, now)) is not None:
            return found
        total = sum(info.size for info in infos)
        if total > self._limits.max_bytes:
            raise ArtifactError(f"{source.url} has {total} bytes; up to {self._limits.max_bytes} are allowed")
        self._directory.mkdir(mode=0o700, parents=True, exist_ok=True)
        # Before it fills the disk, which the database needs as well.
        if total > (free := shutil.disk_usage(self._directory).free):
            raise ArtifactError(f"{source.url} has {total} bytes, and {free} are free on the server's disk")
        part = Path(tempfile.mkdtemp(prefix=_PART, dir=self._directory))
        try:
            files = self._download(source, infos, names, part, ends)
            size = sum(file.stat().st_size for file in _walk(files) if file.is_file())
            facts = _Facts(source, now, size)
            (part / _FACTS).write_bytes(msgspec.json.encode(facts))
            self._settle(part, source, now)
        except BaseException as error:
            shutil.rmtree(part, ignore_errors=True)
            if isinstance(error, ServingError):
                # Where it was to lie is nothing to the caller.
                raise type(error)(error.message.replace(str(part), "the server's disk")) from error
            raise
        return Artifact(source, now, size, self._place((source, now)) / _FILES)

    def _listed(self, source: Source) -> tuple[list[ObjectInfo], list[str]]:
        """The objects that the source is made of, and each one's path."""
        if source.form != "prefix":
            name = name_of(source.url)
            if source.form == "object":
                name = _relative(source.url.removesuffix(source.url.rpartition("/")[2]), source.url, self._limits)
            return [self._objects.head(source.url)], [name]
        most = self._limits.max_members
        found = list(islice(self._objects.list(source.url), most + 1))
        if len(found) > most:
            raise ArtifactError(f"{source.url} has more than {most} objects below it, which no model does")
        # Consoles make folders visible by an empty object whose key ends with a slash.
        infos = sorted((info for info in found if not info.url.endswith("/")), key=lambda info: info.url)
        if not infos:
            raise ObjectMissing(f"{source.url}: there is no object below it")
        return infos, [_relative(source.url, info.url, self._limits) for info in infos]

    def _download(self, source: Source, infos: list[ObjectInfo], names: list[str], part: Path, ends: float) -> Path:
        files = part / _FILES
        if source.form == "archive":
            archive = part / _ARCHIVE
            self._objects.fetch(source.url, archive, etag=infos[0].etag, timeout_s=_left(ends))
            try:
                Archives(part / "unpacked", self._limits).unpack(archive).rename(files)
            except ArtifactError as error:
                raise type(error)(error.message.replace(str(archive), source.url)) from error
            archive.unlink()
            shutil.rmtree(part / "unpacked")
            return files
        for info, name in zip(infos, names, strict=True):
            try:
                (files / name).parent.mkdir(parents=True, exist_ok=True)
            except (FileExistsError, NotADirectoryError) as error:
                raise _both(info) from error
        # Of many small objects each is mostly waited for.
        with ThreadPoolExecutor(_AT_ONCE, "objects") as threads:
            fetches = [
                threads.submit(self._one, info, files / name, ends) for info, name in zip(infos, names, strict=True)
            ]
            try:
                for fetch in fetches:
                    fetch.result()
            except BaseException:
                threads.shutdown(wait=False, cancel_futures=True)
                raise
        return files

    def _one(self, info: ObjectInfo, target: Path, ends: float) -> None:
        """One object of several."""
        if target.is_dir():
            raise _both(info)
        try:
            self._objects.fetch(info.url, target, etag=info.etag, timeout_s=_left(ends))
        except ObjectMissing as error:
            raise ObjectChanged(error.message) from error

    def _settle(self, part: Path, source: Source, revision: str) -> None:
        """Makes the folder last, then known; where another fetch was quicker, its folder stays, which may be in use."""
        place = self._place((source, revision))
        part.chmod(0o755)
        for path in (*_walk(part), part):
            _sync(path)
        try:
            part.rename(place)
        except OSError:
            if self.have(source, revision) is not None:
                shutil.rmtree(part)
                return
            shutil.rmtree(place)
            part.rename(place)
        _sync(self._directory)

    def _place(self, key: Key) -> Path:
        source, revision = key
        text = f"{source.url}\0{source.form}\0{revision}"
        return self._directory / hashlib.blake2b(text.encode(), digest_size=16).hexdigest()


def remove(taken: Collection[Path]) -> None:
    """Removes what `Artifacts.keep` took away. Blocks."""
    for path in taken:
        shutil.rmtree(path, ignore_errors=True)


def name_of(url: str) -> str:
    """The file name of an object."""
    return PurePosixPath(_plain(url)).name


def _plain(url: str) -> str:
    """The path in a URL as a disk has it: keys of S3 are written as they are, those of `file://` are quoted."""
    return unquote(url, errors="surrogateescape") if url[:5].lower() == "file:" else url


def _revision(source: Source, infos: list[ObjectInfo], names: list[str]) -> str:
    if source.form != "prefix":
        return infos[0].etag
    text = "".join(f"{name}\0{info.etag}\0" for name, info in zip(names, infos, strict=True))
    return hashlib.blake2b(text.encode(), digest_size=16).hexdigest()


def _relative(prefix: str, url: str, limits: Limits) -> str:
    """An object's path below the prefix. Raises `ArtifactError` where it would lie elsewhere."""
    name = _plain(url.removeprefix(prefix))
    parts = name.split("/")
    bad = not url.startswith(prefix) or "\0" in name or any(part in ("", ".", "..") for part in parts)
    too_long = any(len(part.encode(errors="surrogateescape")) > limits.max_part_bytes for part in parts)
    if bad or too_long or len(parts) > limits.max_depth:
        raise ArtifactError(
            f"{url} cannot be a file of a model: its key has no path below {prefix} that a disk can hold"
        )
    return name


def _both(info: ObjectInfo) -> ArtifactError:
    return ArtifactError(f"{info.url} is an object and a folder of others; a model has one of the two")


def _left(ends: float) -> float:
    return max(ends - monotonic(), 0.001)


def _walk(directory: Path) -> Iterator[Path]:
    """All below a directory, files before the folders that hold them."""
    for base, _, files in os.walk(directory, topdown=False):
        for file in files:
            yield Path(base, file)
        yield Path(base)


def _sync(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
