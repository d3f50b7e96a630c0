"""Accepts connections for one worker from the listening sockets that all workers share.

One connection a turn: asyncio's servers (and libuv's) accept until the backlog is empty, so with shared sockets one
worker would take every connection of a burst and the others none. And a worker that has more connections than another
leaves a new one to it for a moment: connections are kept for long, and two workers of 40 and 88 are slower than two of
64 (figures: docs/benchmarks.md).
"""

from __future__ import annotations

import asyncio
import errno
import logging
import socket
import ssl
from collections.abc import Callable, Sequence

from serving.processes.board import ABSENT, Board

log = logging.getLogger("serving.acceptor")

_PAUSE_S = 0.2
_YIELD_S = 1e-3
_OUT_OF_RESOURCES = frozenset({errno.EMFILE, errno.ENFILE, errno.ENOBUFS, errno.ENOMEM})


class Acceptor:
    """Feeds accepted connections to a protocol factory; stops while `limit` connections are open."""

    def __init__(
        self,
        sockets: Sequence[socket.socket],
        factory: Callable[[], asyncio.Protocol],
        count: Callable[[], int],
        limit: int,
        tls: ssl.SSLContext | None,
        board: Board,
        worker: int,
    ) -> None:
        self._loop = asyncio.get_running_loop()
        self._sockets = sockets
        self._factory = factory
        self._count = count
        self._limit = limit
        self._tls = tls
        self._board = board
        self._worker = worker
        self._yielded = False
        self._tasks: set[asyncio.Task[object]] = set()
        self._open = False

    def start(self) -> None:
        """Begins to accept."""
        self._open = True
        self._board[self._worker] = self._connections()
        for listener in self._sockets:
            listener.setblocking(False)
            self._loop.add_reader(listener.fileno(), self._accept, listener)

    def stop(self) -> None:
        """Takes what waits in the kernel's queue, which closing would reset, and closes this process's copies."""
        if not self._open:
            return
        self._open = False
        self._board[self._worker] = ABSENT
        for listener in self._sockets:
            self._loop.remove_reader(listener.fileno())
            while self._room() and self._accept_one(listener):
                pass
            listener.close()

    def _connections(self) -> int:
        return self._count() + len(self._tasks)

    def _room(self) -> bool:
        return self._connections() < self._limit

    def _accept(self, listener: socket.socket) -> None:
        connections = self._board[self._worker] = self._connections()
        if connections >= self._limit:
            self._pause(listener, _PAUSE_S)
        elif connections > self._board.least() and not self._yielded:
            # Once only: the other may be too busy to come, and then nobody should wait for it.
            self._yielded = True
            self._pause(listener, _YIELD_S)
        else:
            self._yielded = False
            self._accept_one(listener)

    def _accept_one(self, listener: socket.socket) -> bool:
        """Accepts a connection, if one waits and there are resources for it."""
        try:
            connection, _ = listener.accept()
        except (BlockingIOError, InterruptedError, ConnectionAbortedError):
            return False
        except OSError as error:
            if error.errno not in _OUT_OF_RESOURCES:
                raise
            log.warning("connections wait: %s", error.strerror)
            self._pause(listener, _PAUSE_S)
            return False
        connection.setblocking(False)
        if connection.family in (socket.AF_INET, socket.AF_INET6):
            connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        task = self._loop.create_task(self._connect(connection))
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        return True

    async def _connect(self, connection: socket.socket) -> None:
        try:
            await self._loop.connect_accepted_socket(
                self._factory,
                connection,
                ssl=self._tls,
                ssl_handshake_timeout=10.0 if self._tls else None,
            )
        except (OSError, ssl.SSLError) as error:
            log.debug("a connection failed before its first request: %s", error)
            connection.close()

    def _pause(self, listener: socket.socket, seconds: float) -> None:
        """Leaves connections in the kernel's queue for a moment; others of the workers may take them."""
        if not self._open:
            return
        self._loop.remove_reader(listener.fileno())
        self._loop.call_later(seconds, self._resume, listener)

    def _resume(self, listener: socket.socket) -> None:
        if self._open:
            self._loop.add_reader(listener.fileno(), self._accept, listener)
