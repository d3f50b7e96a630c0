"""An object store in memory, with the faults that tests want."""

from __future__ import annotations

import gzip
import hashlib
import io
import tarfile
import threading
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path

from serving.errors import ObjectChanged, ObjectDenied, ObjectMissing, ObjectStoreUnavailable
from serving.objects.store import Accept, ObjectInfo, anything


class Shelf:
    """Implements `serving.objects.store.ObjectStore`. `asked` lists the calls, as `verb URL`."""

    def __init__(self) -> None:
        self.objects: dict[str, bytes] = {}
        self.asked: list[str] = []
        self.down = False
        self.denied = False
        self.before_fetch: Callable[[str], None] = lambda url: None
        self.gate = threading.Event()
        """Fetches wait for it."""
        self.gate.set()

    def set(self, url: str, content: bytes) -> str:
        self.objects[url] = content
        return url

    def info(self, url: str) -> ObjectInfo:
        content = self.objects[url]
        etag = hashlib.md5(content, usedforsecurity=False).hexdigest()
        return ObjectInfo(url=url, size=len(content), etag=etag, modified=0.0)

    def head(self, url: str) -> ObjectInfo:
        self._ask("head", url)
        return self.info(url)

    def list(self, url: str) -> Iterator[ObjectInfo]:
        self.asked.append(f"list {url}")
        if self.down:
            raise ObjectStoreUnavailable(f"{url}: the object store cannot be reached")
        for name in sorted(self.objects):
            if name.startswith(url):
                yield self.info(name)

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
        self.before_fetch(url)
        assert self.gate.wait(20)
        self._ask("fetch", url)
        info = self.info(url)
        if etag not in (None, info.etag):
            raise ObjectChanged(f"{url} was replaced")
        accept(info)
        target.write_bytes(self.objects[url])
        return info

    def put(self, url: str, source: Path) -> ObjectInfo:
        self.set(url, source.read_bytes())
        return self.info(url)

    def delete(self, url: str) -> None:
        del self.objects[url]

    def _ask(self, verb: str, url: str) -> None:
        self.asked.append(f"{verb} {url}")
        if self.down:
            raise ObjectStoreUnavailable(f"{url}: the object store cannot be reached")
        if self.denied:
            raise ObjectDenied(f"{url}: access denied (403); the keys of https://s3.internal must be right")
        if url not in self.objects:
            raise ObjectMissing(f"{url}: there is no such object")


def packed(files: Mapping[str, bytes]) -> bytes:
    """A model.tar.gz of these files; the same bytes each time."""
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w") as tar:
        for name, content in files.items():
            member = tarfile.TarInfo(name)
            member.size = len(content)
            tar.addfile(member, io.BytesIO(content))
    return gzip.compress(buffer.getvalue(), mtime=0)
