"""S3 as an object store, by obstore: AWS's own, or any that an endpoint names."""

from __future__ import annotations

import asyncio
import atexit
import os
import time
import weakref
from collections import OrderedDict, deque
from collections.abc import Coroutine, Iterator
from contextlib import contextmanager
from datetime import timedelta
from ipaddress import ip_address
from pathlib import Path
from threading import Lock
from time import monotonic
from typing import TYPE_CHECKING, Any, ClassVar, Final, TypeVar
from urllib.parse import quote, urlsplit

from serving.errors import ArtifactError, ConfigurationError, MissingExtra, ObjectChanged, ObjectStoreUnavailable
from serving.objects.download import Download
from serving.objects.faults import translated, unreadable_key
from serving.objects.landing import landing
from serving.objects.location import Location, locate
from serving.objects.store import Accept, ObjectInfo, Patience, anything
from serving.settings import Aws

if TYPE_CHECKING:
    from collections.abc import Sequence

    from obstore import ObjectMeta
    from obstore.store import ClientConfig, RetryConfig, S3Config, S3Store

T = TypeVar("T")

DEFAULT_REGION: Final = "us-east-1"
_MOST_CLIENTS: Final = 32
_MOST_LOOPS: Final = 8
_PUT_PART_BYTES: Final = 8 * 1024 * 1024
_PUT_AT_ONCE: Final = 4
_MOST_PARTS: Final = 9_000
"""S3 takes 10,000 parts of an upload."""
_PAGE: Final = 1000
_ABANDONED_S: Final = 0.1


class S3Objects:
    """The objects of S3; implements `ObjectStore`. Raises `ConfigurationError` where `aws` has half of a key."""

    def __init__(self, aws: Aws, patience: Patience) -> None:
        if (aws.access_key_id is None) != (aws.secret_access_key is None):
            given, lacking = "AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"
            if aws.access_key_id is None:
                given, lacking = lacking, given
            raise ConfigurationError(f"{given} is set and {lacking} is not; S3 needs both")
        self._aws = aws
        self._patience = patience
        self._clients: OrderedDict[tuple[str, str, bool], S3Store] = OrderedDict()
        self._lock = Lock()
        self._loops: deque[asyncio.AbstractEventLoop] = deque()
        weakref.finalize(self, _close, self._loops)

    def head(self, url: str) -> ObjectInfo:
        """Implements `ObjectStore`."""
        location = self._named(url)
        store, path = self._store(location)
        with translated(location, self._aws):
            return _info(location.url, self._run(_head(store, path), location, self._patience.answer_s))

    def list(self, url: str) -> Iterator[ObjectInfo]:
        """Implements `ObjectStore`."""
        location = locate(url, self._aws.endpoint_url)
        prefix = location.key if location.key.endswith("/") or not location.key else f"{location.key}/"
        if not _is_plain(prefix.removesuffix("/")) and prefix:
            raise unreadable_key(location)
        return self._pages(Location(location.bucket, prefix))

    def _pages(self, folder: Location) -> Iterator[ObjectInfo]:
        with translated(folder, self._aws):
            store = self._client(folder.bucket, "", reading=True)
            pages = _library().list(store, folder.key, chunk_size=_PAGE)
        while True:
            with translated(folder, self._aws):
                page = self._run(_next(pages), folder, self._patience.answer_s)
            if page is None:
                return
            for meta in page:
                location = Location(folder.bucket, meta["path"])
                if location.key.startswith(folder.key) and (meta["size"] or self._is_object(location, meta)):
                    yield _info(location.url, meta)

    def _is_object(self, location: Location, meta: ObjectMeta) -> bool:
        """Whether an empty object is one: obstore drops the slash that ends the key of what stands for a folder."""
        store, path = self._store(location)
        with translated(location, self._aws):
            try:
                return self._run(_head(store, path), location, self._patience.answer_s)["e_tag"] == meta["e_tag"]
            except FileNotFoundError:
                return False

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
        location = self._named(url)
        store, path = self._store(location)
        with landing(location.url, target, sync=sync) as descriptor:
            download = Download(
                store, path, location, descriptor, self._patience, lambda meta: accept(_info(url, meta))
            )
            with translated(location, self._aws):
                meta = self._run(download.run(etag), location, timeout_s or self._patience.fetch_s, download)
            if os.fstat(descriptor).st_size != meta["size"]:
                raise ObjectStoreUnavailable(f"{location.url}: S3 said {meta['size']} bytes and sent others")
        return _info(location.url, meta)

    def put(self, url: str, source: Path) -> ObjectInfo:
        """Implements `ObjectStore`. Raises `ObjectChanged` where `source` changes meanwhile."""
        location = self._named(url)
        store, path = self._store(location, reading=False)
        try:
            with source.open("rb") as file:
                before = os.fstat(file.fileno())
                with translated(location, self._aws):
                    self._run(_put(store, path, file, before.st_size), location, self._patience.fetch_s)
                after = os.fstat(file.fileno())
        except OSError as error:
            raise ArtifactError(f"{source} cannot be read: {error.strerror or error}") from error
        info = self.head(url)
        if (before.st_size, before.st_mtime_ns) != (after.st_size, after.st_mtime_ns) or info.size != before.st_size:
            raise ObjectChanged(f"{source} was changed while it was copied to {location.url}; try again")
        return info

    def delete(self, url: str) -> None:
        """Implements `ObjectStore`."""
        location = self._named(url)
        store, path = self._store(location)
        with translated(location, self._aws):
            self._run(_delete(store, path), location, self._patience.answer_s)

    # ------------------------------------------------------------------ loops

    def _run(
        self, work: Coroutine[Any, Any, T], location: Location, timeout_s: float, download: Download | None = None
    ) -> T:
        """Runs the work on a loop of this thread's own; what it waits for ends when time is up."""
        try:
            with self._loop() as loop:
                return loop.run_until_complete(_within(work, timeout_s))
        except TimeoutError as error:
            came = "" if download is None or download.size is None else f": {download.written} of {download.size} bytes"
            raise ObjectStoreUnavailable(
                f"{location.url} was not there after {timeout_s:g} s{came}; it is too slow, or the connection is"
            ) from error

    @contextmanager
    def _loop(self) -> Iterator[asyncio.AbstractEventLoop]:
        # Kept from call to call: to make one and end it takes as long as a small object does.
        try:
            loop = self._loops.pop()
        except IndexError:
            loop = asyncio.new_event_loop()
        try:
            yield loop
        finally:
            if len(self._loops) < _MOST_LOOPS:
                self._loops.append(loop)
            else:
                loop.close()

    # ------------------------------------------------------------------ clients

    def _named(self, url: str) -> Location:
        return locate(url, self._aws.endpoint_url).named()

    def _store(self, location: Location, *, reading: bool = True) -> tuple[S3Store, str]:
        """The client for an object and the path by which that client knows it.

        obstore drops empty parts of a path, which S3 does not; up to the last one they go into the client's base.
        """
        base, slash, path = "", "", location.key
        if path.startswith("/") or "//" in path:
            base, slash, path = path.rpartition("//") if "//" in path else ("", "/", path[1:])
        if not _is_plain(path) or (base and not all(_is_plain(part) for part in base.split("/") if part)):
            raise unreadable_key(location)
        return self._client(location.bucket, base + slash, reading=reading), path

    def _client(self, bucket: str, base: str, *, reading: bool) -> S3Store:
        key = (bucket, base, reading)
        with self._lock:
            client = self._clients.get(key)
            if client is None:
                client = self._clients[key] = self._make(bucket, base, reading)
                if len(self._clients) > _MOST_CLIENTS:
                    self._clients.popitem(last=False)
            self._clients.move_to_end(key)
            return client

    def _make(self, bucket: str, base: str, reading: bool) -> S3Store:
        _library()
        from obstore.store import S3Store

        aws, patience = self._aws, self._patience
        region = aws.region or DEFAULT_REGION
        config: S3Config = {"bucket": bucket, "region": region, "virtual_hosted_style_request": False}
        # By this name of the setting: AWS_ENDPOINT_URL_S3 of the environment would go before any other.
        if aws.endpoint_url:
            config["aws_endpoint_url_s3"] = aws.endpoint_url
        elif "." not in bucket:
            config["virtual_hosted_style_request"] = True
        if base:
            own = aws.endpoint_url or f"https://s3.{region}.amazonaws.com{'.cn' if region.startswith('cn-') else ''}"
            # The client adds a slash before the path.
            config["aws_endpoint_url_s3"] = f"{own.rstrip('/')}/{bucket}/{quote(base.removesuffix('/'))}"
            config["virtual_hosted_style_request"] = True
        client: ClientConfig = {
            "allow_http": True,
            "connect_timeout": timedelta(seconds=patience.connect_s),
            "timeout": timedelta(seconds=patience.fetch_s),
        }
        if reading:
            # Not where content is sent: the time that takes would count as silence.
            client["read_timeout"] = timedelta(seconds=patience.silence_s)
        host = urlsplit(aws.endpoint_url or "").hostname or ""
        if _is_loopback(host):
            # Where the environment names a proxy it would be asked for this machine's own addresses too.
            client |= {"proxy_url": "http://127.0.0.1:9", "proxy_excludes": host}
        retries: RetryConfig = {
            "max_retries": patience.retries,
            "retry_timeout": timedelta(seconds=patience.answer_s),
            "backoff": {"init_backoff": timedelta(seconds=patience.backoff_s)},
        }
        if aws.access_key_id:
            # As a provider, since obstore would mix keys that are given with a token that is in the environment.
            return S3Store(
                **config,
                skip_signature=False,
                client_options=client,
                retry_config=retries,
                credential_provider=_Keys(aws),
            )
        if aws.endpoint_url:
            config["skip_signature"] = True
        return S3Store(**config, client_options=client, retry_config=retries)


class _Abandoned:
    """When requests were given up last. Where the interpreter ends before they have, obstore aborts the process.

    Source: issue 40 of PyO3/pyo3-async-runtimes.
    """

    at: ClassVar[float] = float("-inf")


@atexit.register
def _let_abandoned_end() -> None:
    time.sleep(max(0.0, _Abandoned.at + _ABANDONED_S - monotonic()))


class _Keys:
    """The keys that were given, in the form in which obstore asks for them."""

    def __init__(self, aws: Aws) -> None:
        self._aws = aws

    def __call__(self) -> Any:
        aws = self._aws
        return {
            "access_key_id": aws.access_key_id,
            "secret_access_key": aws.secret_access_key,
            "token": aws.session_token,
            "expires_at": None,
        }


async def _within(work: Coroutine[Any, Any, T], timeout_s: float) -> T:
    try:
        async with asyncio.timeout(timeout_s):
            return await work
    except BaseException:
        _Abandoned.at = monotonic()
        # The library is told by callbacks, which the loop would else run with its next work.
        await asyncio.sleep(0)
        raise


async def _head(store: S3Store, path: str) -> ObjectMeta:
    meta: ObjectMeta = await _library().head_async(store, path)
    return meta


async def _next(pages: Any) -> Sequence[ObjectMeta] | None:
    try:
        page: Sequence[ObjectMeta] = await anext(pages)
    except StopAsyncIteration:
        return None
    return page


async def _put(store: S3Store, path: str, file: Any, size: int) -> None:
    part = max(_PUT_PART_BYTES, -(-size // _MOST_PARTS))
    await _library().put_async(store, path, file, chunk_size=part, max_concurrency=_PUT_AT_ONCE)


async def _delete(store: S3Store, path: str) -> None:
    await _library().delete_async(store, path)


def _library() -> Any:
    """obstore. Raises `MissingExtra`."""
    try:
        import obstore
    except ImportError as error:
        raise MissingExtra(
            f"the object store needs obstore, which cannot be imported ({error}): pip install 'serving[control]'"
        ) from error
    return obstore


def _info(url: str, meta: ObjectMeta) -> ObjectInfo:
    return ObjectInfo(url, meta["size"], meta["e_tag"] or "", meta["last_modified"].timestamp())


def _is_plain(path: str) -> bool:
    """Whether obstore takes a path as it stands."""
    return all(part not in ("", ".", "..") for part in path.split("/"))


def _is_loopback(host: str) -> bool:
    try:
        return ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


def _close(loops: deque[asyncio.AbstractEventLoop]) -> None:
    while loops:
        loops.pop().close()
