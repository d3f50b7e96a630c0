"""The object store: where models come from and results go to; one small interface over S3 and the machine's own files."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Protocol

import msgspec

from serving.settings import Aws


class ObjectInfo(msgspec.Struct, frozen=True):
    """What is known of an object: bytes, the time of its last change (epoch seconds), and the ETag that names its content.

    The ETag is opaque, quotes and all: equal ones mean equal content under the same URL, and nothing else.
    """

    url: str
    size: int
    etag: str
    modified: float


Accept = Callable[[ObjectInfo], None]


def anything(info: ObjectInfo) -> None:
    """Accepts every object."""


class Patience(msgspec.Struct, frozen=True):
    """How long an object store is waited for.

    `connect_s` for a connection, `silence_s` for the next byte, `answer_s` for a whole answer other than an object's
    content, `fetch_s` for an object (SageMaker's longest ModelDataDownloadTimeoutInSeconds). What may pass is tried
    `retries` times more, pausing from `backoff_s` on, each time twice as long.
    """

    connect_s: float = 5.0
    silence_s: float = 15.0
    answer_s: float = 60.0
    fetch_s: float = 3600.0
    retries: int = 5
    backoff_s: float = 0.1


class ObjectStore(Protocol):
    """Objects by URL. Its functions block and may be called on any thread, together.

    Each raises `ObjectMissing`, `ObjectStoreUnavailable` (another try may succeed), `ObjectDenied`, or `ArtifactError`
    where the URL is none of an object; all name the URL. `MissingExtra` where a library is missing.
    """

    def head(self, url: str) -> ObjectInfo:
        """What is known of an object."""
        ...

    def list(self, url: str) -> Iterator[ObjectInfo]:
        """All objects in the folder `url` and its folders, read page by page; none where there is no such folder.

        What S3 consoles write to stand for a folder, an empty object whose key ends in a slash, is passed over.
        """
        ...

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
        """Copies an object's content to the file `target`, all of it or, on any error, nothing.

        Memory is bounded whatever the size. Raises `ObjectChanged` too, where the object's ETag is not `etag` or the
        object is replaced while it is read, and `ObjectStoreUnavailable` after `timeout_s` seconds. `accept` is told what
        comes before any of it is written, and what it raises ends the fetch. Without `sync` a crash may leave a
        file that is not whole, and `target` must not be there yet.
        """
        ...

    def put(self, url: str, source: Path) -> ObjectInfo:
        """Makes the file the content of an object; others see the old content or the new, never a part."""
        ...

    def delete(self, url: str) -> None:
        """Removes an object; where there is none, nothing."""
        ...


class Objects:
    """The object store that asks S3 or the machine's own files, as the URL says; implements `ObjectStore`."""

    def __init__(self, remote: ObjectStore, local: ObjectStore) -> None:
        self._remote = remote
        self._local = local

    def head(self, url: str) -> ObjectInfo:
        """Implements `ObjectStore`."""
        return self._of(url).head(url)

    def list(self, url: str) -> Iterator[ObjectInfo]:
        """Implements `ObjectStore`."""
        return self._of(url).list(url)

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
        """Implements `ObjectStore`."""
        return self._of(url).fetch(url, target, etag=etag, timeout_s=timeout_s, accept=accept, sync=sync)

    def put(self, url: str, source: Path) -> ObjectInfo:
        """Implements `ObjectStore`."""
        return self._of(url).put(url, source)

    def delete(self, url: str) -> None:
        """Implements `ObjectStore`."""
        self._of(url).delete(url)

    def _of(self, url: str) -> ObjectStore:
        return self._local if url[:5].lower() == "file:" else self._remote


def open_store(aws: Aws, allow_paths: Sequence[Path], patience: Patience = Patience()) -> ObjectStore:  # noqa: B008
    """The object store of a server: S3 as `aws` says, and `file://` under `allow_paths`. Connects to nothing yet.

    Raises `ConfigurationError` where `aws` has half of a key.
    """
    from serving.objects.local import LocalObjects
    from serving.objects.s3 import S3Objects

    return Objects(S3Objects(aws, patience), LocalObjects(allow_paths))
