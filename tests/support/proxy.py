"""A TCP proxy on loopback that behaves as badly as a test wants: slow, cutting, refusing, hanging; it counts all it does."""

from __future__ import annotations

import asyncio
import contextlib
import threading
from collections.abc import Callable, Coroutine
from types import TracebackType
from typing import Final, Self

_CHUNK: Final = 64 * 1024
_STARTS_WITHIN_S: Final = 10.0


class Proxy:
    """Passes connections on to `port` of this machine until told otherwise; a context manager.

    What is set holds for what passes from then on, on open connections too. `requests` are the heads of the HTTP
    requests that passed, `connections`, `cuts` and `bytes_down` (towards the client) are counted since the start.
    """

    def __init__(self, port: int) -> None:
        self.port = 0
        self.requests: list[str] = []
        self.connections = 0
        self.cuts = 0
        self.bytes_down = 0
        self._upstream = port
        self._delay_s = 0.0
        self._bytes_per_s: float | None = None
        self._cut_after: int | None = None
        self._cuts_left = 0
        self._hanging = False
        self._held = False
        self._action: tuple[int, Callable[[], object]] | None = None
        self._loop = asyncio.new_event_loop()
        self._server: asyncio.Server | None = None
        self._tasks: set[asyncio.Task[None]] = set()
        self._open: set[asyncio.StreamWriter] = set()
        self._thread = threading.Thread(target=self._loop.run_forever, name="proxy", daemon=True)

    def __enter__(self) -> Self:
        self._thread.start()
        self._do(self._listen())
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, tb: TracebackType | None) -> None:
        self._do(self._close())
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join(_STARTS_WITHIN_S)
        self._loop.close()

    @property
    def url(self) -> str:
        """Where it listens."""
        return f"http://127.0.0.1:{self.port}"

    # ------------------------------------------------------------------ behaviour

    def behave(self) -> None:
        """Passes all on as it comes, again."""
        self._delay_s, self._bytes_per_s, self._cut_after, self._hanging, self._action = 0.0, None, None, False, None
        self._do(self._listen())

    def delay(self, seconds: float) -> None:
        """Holds each piece of an answer back for so long."""
        self._delay_s = seconds

    def throttle(self, bytes_per_s: float) -> None:
        """Lets each connection's answers through at this rate."""
        self._bytes_per_s = bytes_per_s

    def cut(self, after: int, times: int = 1_000_000) -> None:
        """Resets connections after so many more bytes of answers on each, so many times."""
        self._cut_after, self._cuts_left = after, times

    def hang(self) -> None:
        """Takes connections and requests, and passes nothing on."""
        self._hanging = True

    def refuse(self) -> None:
        """Resets what is open and refuses new connections, as when nobody listens."""
        self._do(self._refuse())

    def when(self, bytes_down: int, action: Callable[[], object]) -> None:
        """Calls `action` once so many further bytes of answers have passed in all; nothing passes meanwhile."""
        self._action = (self.bytes_down + bytes_down, action)

    # ------------------------------------------------------------------ the loop's side

    def _do(self, work: Coroutine[None, None, None]) -> None:
        asyncio.run_coroutine_threadsafe(work, self._loop).result(_STARTS_WITHIN_S)

    async def _listen(self) -> None:
        if self._server is None:
            self._server = await asyncio.start_server(self._accept, "127.0.0.1", self.port, reuse_address=True)
            self.port = self._server.sockets[0].getsockname()[1]

    async def _refuse(self) -> None:
        if self._server is not None:
            server, self._server = self._server, None
            # asyncio leaves a connection open that it has just taken when its server is closed: it may hand it over first.
            for listener in server.sockets:
                self._loop.remove_reader(listener.fileno())
            await asyncio.sleep(0)
            server.close()
        for writer in self._open:
            writer.transport.abort()

    async def _close(self) -> None:
        await self._refuse()
        # All of the loop's: a connection that asyncio has just taken is a task of asyncio's until it is handed over,
        # and one that is cancelled before it begins leaves its socket open.
        while tasks := asyncio.all_tasks() - {asyncio.current_task()}:
            await asyncio.sleep(0)
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)

    def _accept(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        if self._server is None:
            writer.transport.abort()
            return
        self._open.add(writer)
        task = self._loop.create_task(self._serve(reader, writer))
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        # It may be cancelled before it begins.
        task.add_done_callback(lambda _: writer.transport.abort())

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.connections += 1
        up: asyncio.StreamWriter | None = None
        try:
            down, up = await asyncio.open_connection("127.0.0.1", self._upstream)
            self._open.add(up)
            ways = [asyncio.ensure_future(self._upwards(reader, up)), asyncio.ensure_future(self._down(down, writer))]
            try:
                await asyncio.wait(ways, return_when=asyncio.FIRST_COMPLETED)
            finally:
                for way in ways:
                    way.cancel()
                await asyncio.gather(*ways, return_exceptions=True)
        except OSError:
            pass
        finally:
            for end in (writer, up):
                if end is not None:
                    self._open.discard(end)
                    end.transport.abort()

    async def _upwards(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with contextlib.suppress(OSError):
            while data := await reader.read(_CHUNK):
                if data.split(b" ", 1)[0] in (b"GET", b"HEAD", b"PUT", b"POST", b"DELETE"):
                    self.requests.append(data.split(b"\r\n\r\n", 1)[0].decode("latin-1"))
                if not self._hanging:
                    writer.write(data)
                    await writer.drain()

    async def _down(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        limit, passed = self._cut_after, 0
        # So that all that is counted as passed has left before a cut.
        writer.transport.set_write_buffer_limits(0)
        with contextlib.suppress(OSError):
            while data := await reader.read(_CHUNK):
                if limit is not self._cut_after:
                    limit, passed = self._cut_after, 0
                await self._before(len(data))
                cut = limit is not None and self._cuts_left > 0 and passed + len(data) > limit
                data = data[: limit - passed] if cut and limit is not None else data
                writer.write(data)
                await writer.drain()
                passed += len(data)
                self.bytes_down += len(data)
                if cut:
                    self._cuts_left -= 1
                    self.cuts += 1
                    return

    async def _before(self, size: int) -> None:
        """What happens before a piece of an answer passes."""
        while self._hanging or self._held:  # noqa: ASYNC110
            await asyncio.sleep(0.01)
        if self._action is not None and self.bytes_down + size > self._action[0]:
            action, self._action = self._action[1], None
            task = self._loop.create_task(self._act(action))
            self._tasks.add(task)
            task.add_done_callback(self._tasks.discard)
            # It goes on where this connection ends meanwhile.
            await asyncio.shield(task)
        seconds = self._delay_s + (size / self._bytes_per_s if self._bytes_per_s else 0.0)
        if seconds:
            await asyncio.sleep(seconds)

    async def _act(self, action: Callable[[], object]) -> None:
        self._held = True
        try:
            await asyncio.to_thread(action)
        finally:
            self._held = False
