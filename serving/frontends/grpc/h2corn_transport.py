"""The service over h2corn, an HTTP/2 server in Rust that calls an ASGI application on the worker's own loop.

Its sockets are read and written by one thread of its own; ours sees whole events. It is embedded by names that are not its public
ones, which spares a banner on stderr: another version is another contract.
Source: h2corn, "Embedding" and its configuration reference.
"""

from __future__ import annotations

import asyncio
import logging
import os
import socket
from collections.abc import Awaitable, Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from importlib.metadata import version
from typing import Any, Final

from h2corn import Config
from h2corn._lib import prepare_tls, serve_fds
from h2corn._lifespan import PreparedApplication
from h2corn._server import load_tls_material

from serving.errors import ConfigurationError
from serving.frontends.grpc.asgi import Application
from serving.frontends.grpc.transport import Service
from serving.frontends.http.tls import TlsContext, stamp
from serving.settings import Settings

log = logging.getLogger("serving.grpc")

H2CORN_VERSION: Final = "2.0.0"

_BACKLOG: Final = 2048
_STREAMS: Final = 1024
"""Calls that one connection may have at once."""

_STREAM_WINDOW: Final = 4 * 1024 * 1024
_CONNECTION_WINDOW: Final = 8 * 1024 * 1024
"""What a caller may send ahead of what was read."""

_RENEW_S: Final = 1.0
_SLACK_S: Final = 1.0


class Transport:
    """Implements `transport.Transport` with h2corn."""

    def __init__(self, settings: Settings, service: Service, sockets: Sequence[socket.socket]) -> None:
        check_h2corn()
        self._settings = settings
        self._sockets = sockets
        self._application = Application(settings, service)
        self._loop = asyncio.get_running_loop()
        self._serving: _Serving | None = None
        self._retired: set[_Serving] = set()
        self._seen = _stamp(settings)
        self._renewing: asyncio.Task[None] | None = None

    @property
    def calls(self) -> int:
        """Implements `Transport`."""
        return self._application.calls

    @property
    def requests(self) -> int:
        """Implements `Transport`."""
        return self._application.requests

    async def start(self) -> None:
        """Implements `Transport`."""
        for each in self._sockets:
            # Connections inherit it: what is left of those that we closed does not keep the port from a server that follows.
            each.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            each.listen(_BACKLOG)
        self._serving = await self._serve()
        if self._seen:
            self._renewing = self._loop.create_task(self._renew())

    async def stop(self, timeout_s: float) -> None:
        """Implements `Transport`."""
        serving = self._serving
        if serving is None:
            return
        if self._renewing is not None:
            self._renewing.cancel()
        serving.stop()
        self._application.stop()
        # Those that served with an older certificate are on their way.
        ends = [each.native for each in (serving, *self._retired)]
        _, left = await asyncio.wait(ends, timeout=timeout_s)
        if left:
            self._application.cut()
            _, left = await asyncio.wait(left, timeout=_SLACK_S)
        if left:
            log.warning("%d gRPC calls were cut off", self._application.calls)

    async def _renew(self) -> None:
        """Takes a changed certificate into use: new connections come to it, and those of the old one are told to go away."""
        settings = self._settings
        while True:
            await asyncio.sleep(_RENEW_S)
            seen = _stamp(settings)
            if seen == self._seen:
                continue
            self._seen = seen
            try:
                serving = await self._serve()
            except ConfigurationError as error:
                log.error("the changed TLS certificate was not taken for gRPC, the old one serves on: %s", error)
                continue
            old, self._serving = self._serving, serving
            assert old is not None
            self._retired.add(old)
            old.native.add_done_callback(partial(self._ended, old))
            old.stop()
            log.info("the TLS certificate of gRPC was renewed")

    def _ended(self, serving: _Serving, _: asyncio.Task[None]) -> None:
        self._retired.discard(serving)

    async def _serve(self) -> _Serving:
        try:
            TlsContext.of(self._settings)
            config = _config(self._settings, self._sockets)
            serving = _Serving(self._application, config, self._sockets)
            await serving.started
        except ConfigurationError:
            raise
        except Exception as error:
            raise ConfigurationError(f"gRPC cannot be served by h2corn: {error}") from error
        return serving


class _Serving:
    """One run of the native server over the sockets, whose certificate is that of its start.

    `native` is done when all its connections are closed.
    """

    def __init__(self, application: Application, config: Config, sockets: Sequence[socket.socket]) -> None:
        loop = asyncio.get_running_loop()
        self.started: asyncio.Future[None] = loop.create_future()
        self._stop: asyncio.Future[str] = loop.create_future()
        app: Any = application
        prepared = PreparedApplication(app, False, "off")
        prepared.app = app
        tls = prepare_tls(config, load_tls_material(config))
        with _patient_threads():
            native = serve_fds(
                prepared,
                [each.fileno() for each in sockets],
                config,
                self._stop,
                None,
                self._ready,
                None,
                prepared_tls=tls,
            )
        self.native = loop.create_task(_wait(native))
        self.native.add_done_callback(self._over)

    def stop(self) -> None:
        """Accepts no more; connections are told to go away, and what is in flight is answered."""
        if not self._stop.done():
            self._stop.set_result("stop")

    def _ready(self, error: BaseException | None = None) -> None:
        if self.started.done():
            return
        if error is None:
            self.started.set_result(None)
        else:
            self.started.set_exception(error)

    def _over(self, native: asyncio.Future[None]) -> None:
        error = None if native.cancelled() else native.exception()
        if not self.started.done():
            self.started.set_exception(error or RuntimeError("it ended before it began"))
        elif error is not None:
            log.error("h2corn failed", exc_info=error)


@contextmanager
def _patient_threads() -> Iterator[None]:
    """Threads that are made within do not interrupt others when they wake, where the kernel has a policy for it.

    By its usual one, h2corn's thread cuts in for each answer that ours sends and each packet that comes, where both share
    a core; so it takes them together (sched(7), SCHED_BATCH, which threads inherit).
    """
    usual = False
    try:
        usual = os.sched_getscheduler(0) == os.SCHED_OTHER
        if usual:
            os.sched_setscheduler(0, os.SCHED_BATCH, os.sched_param(0))
    except (AttributeError, OSError) as error:
        usual = False
        log.debug("h2corn's threads keep their scheduling policy: %s", error)
    try:
        yield
    finally:
        if usual:
            os.sched_setscheduler(0, os.SCHED_OTHER, os.sched_param(0))


async def _wait(native: Awaitable[None]) -> None:
    await native


def check_h2corn() -> None:
    """Raises `ConfigurationError` unless h2corn is the version whose private names this module was written for."""
    found = version("h2corn")
    if found != H2CORN_VERSION:
        raise ConfigurationError(
            f"h2corn {found} is installed; this server needs exactly {H2CORN_VERSION}: pip install 'serving[grpc]'"
        )


def _stamp(settings: Settings) -> tuple[int, ...]:
    """What tells whether the certificate has changed; empty without one."""
    if settings.tls_cert is None or settings.tls_key is None:
        return ()
    return stamp(settings.tls_cert, settings.tls_key)


def _config(settings: Settings, sockets: Sequence[socket.socket]) -> Config:
    return Config(
        bind=tuple(f"fd://{each.fileno()}" for each in sockets),
        lifespan="off",
        runtime_threads=1,
        http1=False,
        grpc=True,
        access_log=False,
        date_header=False,
        certfile=settings.tls_cert,
        keyfile=settings.tls_key,
        ca_certs=settings.tls_client_ca,
        cert_reqs="none" if settings.tls_client_ca is None else "required",
        max_concurrent_streams=_STREAMS,
        limit_request_fields=settings.max_headers,
        h2_max_header_list_size=settings.max_header_bytes,
        h2_max_header_block_size=settings.max_header_bytes,
        h2_initial_stream_window_size=_STREAM_WINDOW,
        h2_initial_connection_window_size=_CONNECTION_WINDOW,
        limit_connections=settings.max_connections,
        limit_concurrency=settings.max_connections,
        timeout_handshake=settings.header_timeout_s,
        timeout_request_header=settings.header_timeout_s,
        timeout_keep_alive=settings.keep_alive_timeout_s,
        timeout_graceful_shutdown=settings.drain_timeout_s + _SLACK_S,
        h2_timeout_response_stall=settings.body_timeout_s,
    )
