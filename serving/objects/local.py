"""The machine's own files as an object store, to be read only, and only below folders that the operator named."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from pathlib import Path
from stat import S_ISDIR, S_ISREG
from urllib.parse import quote, unquote, urlsplit

from serving.errors import ArtifactError, ObjectChanged, ObjectDenied, ObjectMissing, ObjectStoreUnavailable
from serving.objects.landing import landing
from serving.objects.store import Accept, ObjectInfo, anything


class LocalObjects:
    """Files below `roots` by `file://` URLs; implements `ObjectStore`.

    Links are followed as long as what they lead to is below a root as well. Source for the URLs: RFC 8089.
    """

    def __init__(self, roots: Sequence[Path]) -> None:
        self._roots = tuple(roots)

    def head(self, url: str) -> ObjectInfo:
        """Implements `ObjectStore`."""
        descriptor = self._open(url)
        try:
            return _info(url, os.fstat(descriptor))
        finally:
            os.close(descriptor)

    def list(self, url: str) -> Iterator[ObjectInfo]:
        """Implements `ObjectStore`."""
        folder = self._resolve(url)
        try:
            found = S_ISDIR(folder.stat().st_mode)
        except OSError as error:
            if isinstance(error, FileNotFoundError | NotADirectoryError):
                return
            raise _unreadable(url, error) from error
        if found:
            yield from self._walk(url, folder)

    def _walk(self, url: str, folder: Path) -> Iterator[ObjectInfo]:
        base = url if url.endswith("/") else f"{url}/"
        try:
            names = sorted(os.listdir(folder))  # noqa: PTH208
        except OSError as error:
            raise _unreadable(url, error) from error
        for name in names:
            inner = base + quote(os.fsencode(name))
            path = folder / name
            if path.is_dir():
                if path.is_symlink():
                    raise ArtifactError(f"{inner} is a link to a folder; folders of model data hold files and folders")
                yield from self._walk(f"{inner}/", path)
            else:
                yield self.head(inner)

    def fetch(
        self,
        url: str,
        target: Path,
        *,
        etag: str | None = None,
        timeout_s: float | None = None,
        accept: Accept = anything,
        sync: bool = True,
    ) -> ObjectInfo:
        """Implements `ObjectStore`; files of this machine are there at once, so that `timeout_s` is not looked at."""
        source = self._open(url)
        try:
            info = _info(url, os.fstat(source))
            if etag is not None and info.etag != etag:
                raise ObjectChanged(f"{url} was replaced: its ETag is {info.etag}, {etag} was expected")
            accept(info)
            with landing(url, target, sync=sync) as descriptor:
                done = 0
                while done < info.size and (sent := os.sendfile(descriptor, source, done, info.size - done)):
                    done += sent
                if done < info.size or _info(url, os.fstat(source)) != info:
                    raise ObjectChanged(f"{url} was changed while it was read; try again")
            return info
        finally:
            os.close(source)

    def put(self, url: str, source: Path) -> ObjectInfo:
        """Implements `ObjectStore`: always raises `ArtifactError`."""
        raise ArtifactError(f"{url}: file:// is only read here; s3://BUCKET/KEY was expected")

    def delete(self, url: str) -> None:
        """Implements `ObjectStore`: always raises `ArtifactError`."""
        raise ArtifactError(f"{url}: file:// is only read here; s3://BUCKET/KEY was expected")

    # ------------------------------------------------------------------ what may be read

    def check(self, url: str) -> None:
        """Raises `ArtifactError` where nothing below the URL may be read, be there anything or not."""
        self._resolve(url)

    def _open(self, url: str) -> int:
        """A descriptor of the plain file that the URL names."""
        path = self._resolve(url)
        try:
            # Not to wait for the other end of a pipe; and not through a link that was put there meanwhile.
            descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_NOFOLLOW | os.O_CLOEXEC)
        except OSError as error:
            raise _unreadable(url, error) from error
        try:
            # A folder above may have been replaced by a link since it was resolved: what counts is what was opened.
            self._check(url, Path(os.readlink(f"/proc/self/fd/{descriptor}")))  # noqa: PTH115
            if not S_ISREG(os.fstat(descriptor).st_mode):
                raise ArtifactError(f"{url} is no plain file")
        except BaseException:
            os.close(descriptor)
            raise
        return descriptor

    def _resolve(self, url: str) -> Path:
        """The path that the URL names, without links. Raises `ArtifactError` where it is not below a root."""
        path = Path(_path(url))
        try:
            resolved = path.resolve()
        except (OSError, RuntimeError) as error:
            raise ArtifactError(f"{url} cannot be read: its links lead nowhere") from error
        self._check(url, resolved)
        return resolved

    def _check(self, url: str, path: Path) -> None:
        check_below(path, self._roots, url)


def check_below(path: Path, roots: Sequence[Path], shown: str) -> None:
    """Raises `ArtifactError` where a path that has no links is not below one of the folders that the operator named."""
    resolved = [root.resolve() for root in roots]
    if not any(path.is_relative_to(root) for root in resolved):
        allowed = ", ".join(map(str, resolved)) or "none"
        raise ArtifactError(
            f"{shown} is not below a folder from which files may be read (now: {allowed}); --allow-path names one"
        )


def _path(url: str) -> str:
    try:
        parts = urlsplit(url)
    except ValueError:
        parts = None
    if parts is None or parts.netloc not in ("", "localhost") or not parts.path.startswith("/"):
        raise ArtifactError(f"{url} names no file of this machine; file:///FOLDER/FILE was expected")
    if "?" in url or "#" in url:
        raise ArtifactError(f"{url}: ? and # in the name of a file are written %3F and %23 in a URL")
    path = unquote(parts.path, errors="surrogateescape")
    if "\0" in path:
        raise ArtifactError(f"{url} names no file of this machine: there is a null character in it")
    return path


def _info(url: str, status: os.stat_result) -> ObjectInfo:
    etag = f'"{status.st_ino:x}-{status.st_mtime_ns:x}-{status.st_size:x}"'
    return ObjectInfo(url, status.st_size, etag, status.st_mtime)


def _unreadable(url: str, error: OSError) -> ArtifactError:
    if isinstance(error, FileNotFoundError | NotADirectoryError):
        return ObjectMissing(f"{url} does not exist")
    if isinstance(error, PermissionError):
        return ObjectDenied(f"{url}: access denied; the user that runs the server must be able to read it")
    return ObjectStoreUnavailable(f"{url} cannot be read: {error.strerror or error}")
