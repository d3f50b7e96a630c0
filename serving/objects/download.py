"""One object on its way from S3 into a file: in parts, several at once, each read on from where it was cut."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Final

from serving.errors import ObjectChanged, ObjectStoreUnavailable
from serving.objects.faults import is_transient
from serving.objects.landing import write
from serving.objects.location import Location
from serving.objects.store import Patience

if TYPE_CHECKING:
    from obstore import GetOptions, GetResult, ObjectMeta
    from obstore.store import S3Store

PART_BYTES: Final = 16 * 1024 * 1024
WHOLE_BYTES: Final = 4 * PART_BYTES
"""Up to here an object comes as one answer: on loopback ranges win nothing, from afar each has its own connection's rate."""

AT_ONCE: Final = 4
_CHUNK_BYTES: Final = 256 * 1024
"""What is held of a part at least before it is written; the library and the kernel hold some more."""


class Download:
    """Reads the object at `path` of a store into a file; use once.

    Everything after the first answer is asked for under the condition that the ETag is still that answer's, so that
    what is written is one version of the object and never a mix of two. `accept` is told of the first answer.
    """

    def __init__(
        self,
        store: S3Store,
        path: str,
        location: Location,
        descriptor: int,
        patience: Patience,
        accept: Callable[[ObjectMeta], None],
    ) -> None:
        self._store = store
        self._path = path
        self._location = location
        self._descriptor = descriptor
        self._patience = patience
        self._accept = accept
        self._etag: str | None = None
        self.size: int | None = None
        self.written = 0

    async def run(self, etag: str | None) -> ObjectMeta:
        """Writes the object; gives what its first answer told. Raises the library's errors and ours."""
        self._etag = etag
        result = await self._ask(None)
        meta = result.meta
        self.size, self._etag = meta["size"], meta["e_tag"]
        if etag is not None and self._etag != etag:
            raise ObjectChanged(f"{self._location.url} was replaced: its ETag is {self._etag}, {etag} was expected")
        self._accept(meta)
        if self.size <= WHOLE_BYTES or self._etag is None:
            await self._part(0, self.size, result)
        else:
            # Its connection goes with it: the parts come on others.
            del result
            await self._parts(self.size)
        return meta

    async def _parts(self, size: int) -> None:
        starts = iter(range(0, size, PART_BYTES))
        tasks = [asyncio.ensure_future(self._some(starts, size)) for _ in range(AT_ONCE)]
        try:
            await asyncio.gather(*tasks)
        finally:
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)

    async def _some(self, starts: Iterator[int], size: int) -> None:
        for start in starts:
            await self._part(start, min(start + PART_BYTES, size), None)

    async def _part(self, start: int, end: int, result: GetResult | None) -> None:
        """Writes the bytes from `start` to before `end`, of which `result` is the first answer if there is one."""
        at, failures = start, 0
        while True:
            before, cut = at, None
            # The library itself asks again where no answer comes; what it does not is to go on with one that broke off.
            result = result or await self._ask((at, end))
            try:
                async for chunk in result.stream(_CHUNK_BYTES):
                    write(self._descriptor, memoryview(chunk), at)
                    at += len(chunk)
                    self.written += len(chunk)
            except Exception as error:
                if not is_transient(error):
                    raise
                cut = error
            if at == end:
                return
            if at > end:
                raise ObjectStoreUnavailable(f"{self._location.url}: S3 sent more bytes than were asked for")
            result = None
            failures = 0 if at > before else failures + 1
            if failures > self._patience.retries:
                raise cut or ObjectStoreUnavailable(
                    f"{self._location.url} comes only in part: {self.written} of {self.size} bytes"
                )
            if failures:
                await asyncio.sleep(self._patience.backoff_s * 2 ** (failures - 1))

    async def _ask(self, part: tuple[int, int] | None) -> GetResult:
        import obstore

        options: GetOptions = {}
        if part is not None:
            options["range"] = part
        if self._etag is not None:
            options["if_match"] = self._etag
        return await obstore.get_async(self._store, self._path, options=options)
