"""The service over grpcio: complete, and the reference that tests hold other transports to.

Every worker binds the port again: the library takes no descriptor, and SO_REUSEPORT lets the kernel spread connections.
Answers are never compressed: the library does not tell how the request was, and each of its clients says that it takes gzip.
Sources: gRPC Core, channel arguments; gRFC A6 (retry push-back), A8 and A9 (keep-alive and connection age).
"""

from __future__ import annotations

import asyncio
import logging
import socket
import ssl
from collections.abc import AsyncIterator, Sequence
from contextlib import aclosing
from pathlib import Path
from typing import Any, Final
from urllib.parse import unquote

import grpc
import grpc.aio

from serving.errors import ConfigurationError, InternalError, RequestTimeout, ServingError, Unavailable, Unsupported
from serving.frontends.grpc.call import Call
from serving.frontends.grpc.servicer import Rpc, Stream, Unary
from serving.frontends.grpc.status import pushback_ms, status_of
from serving.frontends.grpc.transport import Service, where
from serving.frontends.http.tls import stamp
from serving.settings import Settings

log = logging.getLogger("serving.grpc")

_STREAMS: Final = 1024
"""Calls that one connection may have at once."""

_PINGS_MS: Final = 10_000
"""How often a client may ping, with calls or without; one that does it more often is told to go away."""

_PING_MS: Final = 60_000
_PING_TIMEOUT_MS: Final = 20_000
"""When a quiet client is pinged, and when one that does not answer is given up."""

_CODES: Final = {code.value[0]: code for code in grpc.StatusCode}


class Transport:
    """Implements `transport.Transport` with `grpc.aio`, on the worker's loop."""

    def __init__(self, settings: Settings, service: Service, sockets: Sequence[socket.socket]) -> None:
        self.calls = 0
        self.requests = 0
        self._sockets = sockets
        self._body_timeout_s = settings.body_timeout_s
        self._stopping: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._credentials = None
        if settings.tls_cert is not None and settings.tls_key is not None:
            self._credentials = _Certificates(settings.tls_cert, settings.tls_key, settings.tls_client_ca).credentials
        self._server = grpc.aio.server(
            handlers=[_Handlers(self, service)],
            options=_options(settings, service.max_message_bytes),
            maximum_concurrent_rpcs=settings.max_connections,
        )

    async def start(self) -> None:
        """Implements `Transport`."""
        for each in self._sockets:
            address = where(each)
            try:
                if self._credentials is None:
                    self._server.add_insecure_port(address)
                else:
                    self._server.add_secure_port(address, self._credentials)
            except RuntimeError as error:
                raise ConfigurationError(f"cannot listen on {address} for gRPC: {error}") from error
        await self._server.start()

    async def stop(self, timeout_s: float) -> None:
        """Implements `Transport`."""
        if not self._stopping.done():
            self._stopping.set_result(None)
        await self._server.stop(timeout_s)

    def handler(self, rpc: Rpc) -> Any:
        """grpcio's handler of a method."""
        if rpc.unary is not None:
            # grpcio would wait for the message of a `unary_unary` call for ever, and before it asks us.
            return grpc.stream_unary_rpc_method_handler(self._unary(rpc.path, rpc.unary))
        assert rpc.stream is not None
        return grpc.stream_stream_rpc_method_handler(self._stream(rpc.stream))

    def _unary(self, path: str, run: Unary) -> Any:
        async def handle(bodies: AsyncIterator[bytes], context: Any) -> bytes:
            call = _call(context)
            self.calls += 1
            self.requests += 1
            try:
                return await run(await self._only(path, bodies), call)
            except asyncio.CancelledError:
                call.hang_up()
                raise
            except Exception as error:
                _fail(context, error)
                return b""
            finally:
                self.calls -= 1

        return handle

    async def _only(self, path: str, bodies: AsyncIterator[bytes]) -> bytes:
        """The message of a call that has one. Raises `RequestTimeout` and, as gRPC has it of the number of messages, `Unsupported`."""
        try:
            async with asyncio.timeout(self._body_timeout_s):
                body = await anext(bodies, None)
        except TimeoutError as error:
            raise RequestTimeout(f"the message was not received whole in {self._body_timeout_s:g} s") from error
        if body is None:
            raise Unsupported(f"{path} takes one message, and the call has none")
        return body

    def _stream(self, run: Stream) -> Any:
        async def handle(bodies: AsyncIterator[bytes], context: Any) -> AsyncIterator[bytes]:
            call = _call(context)
            asked = _Asked(bodies, self._stopping)
            self.calls += 1
            self.requests += 1
            try:
                async with aclosing(run(asked, call)) as answers:  # type: ignore[type-var]
                    async for body in answers:
                        yield body
                if asked.cut:
                    _fail(context, Unavailable("the server is stopping", retry_after_s=1))
            except Exception as error:
                _fail(context, error)
            finally:
                call.hang_up()
                self.calls -= 1

        return handle


class _Asked:
    """The messages of a stream until its end, or until the server stops: who waits to ask more then is `cut` off."""

    def __init__(self, bodies: AsyncIterator[bytes], stopping: asyncio.Future[None]) -> None:
        self._bodies = bodies
        self._stopping = stopping
        self.cut = False

    def __aiter__(self) -> _Asked:
        return self

    async def __anext__(self) -> bytes:
        reading = asyncio.ensure_future(anext(self._bodies, None))
        try:
            await asyncio.wait((reading, self._stopping), return_when=asyncio.FIRST_COMPLETED)
        finally:
            if not reading.done():
                reading.cancel()
        self.cut = not reading.done()
        body = None if self.cut else reading.result()
        if body is None:
            raise StopAsyncIteration
        return body


class _Handlers(grpc.GenericRpcHandler):  # type: ignore[misc]
    """All methods of a service, and a refusal of every other path."""

    def __init__(self, transport: Transport, service: Service) -> None:
        self._service = service
        self._known = {rpc.path: transport.handler(rpc) for rpc in service.rpcs}

    def service(self, handler_call_details: Any) -> Any:
        """Implements `grpc.GenericRpcHandler`."""
        return self._known.get(handler_call_details.method) or self._refusal(handler_call_details.method)

    def _refusal(self, path: str) -> Any:
        async def refuse(bodies: AsyncIterator[bytes], context: Any) -> None:
            try:
                self._service.find(path)
            except ServingError as error:
                _fail(context, error)

        return grpc.stream_stream_rpc_method_handler(refuse)


class _Certificates:
    """The certificate and key that grpcio shows; a changed pair serves new handshakes, a broken one is not taken.

    Raises `ConfigurationError` where they cannot be read.
    """

    def __init__(self, certificate: Path, key: Path, client_ca: Path | None) -> None:
        self._certificate = certificate
        self._key = key
        self._seen = stamp(certificate, key)
        try:
            self._authorities = client_ca.read_bytes() if client_ca is not None else None
            first = self._read()
        except OSError as error:
            raise ConfigurationError(f"{error.filename} cannot be read for TLS: {error.strerror}") from error
        self.credentials = grpc.dynamic_ssl_server_credentials(
            first, self._changed, require_client_authentication=client_ca is not None
        )

    def _read(self) -> Any:
        pair = (self._key.read_bytes(), self._certificate.read_bytes())
        return grpc.ssl_server_certificate_configuration([pair], self._authorities)

    def _changed(self) -> Any:
        """Asked at each handshake, on a thread of grpcio's; None where nothing has changed."""
        seen = stamp(self._certificate, self._key)
        if seen == self._seen:
            return None
        self._seen = seen
        try:
            # A renewal writes two files: grpcio would take halves that do not belong together.
            ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER).load_cert_chain(self._certificate, self._key)
            return self._read()
        except (OSError, ssl.SSLError) as error:
            log.error("the changed TLS certificate was not taken for gRPC, the old one serves on: %s", error)
            return None


def _options(settings: Settings, most: int) -> list[tuple[str, int]]:
    return [
        ("grpc.so_reuseport", 1),
        ("grpc.max_receive_message_length", most),
        ("grpc.max_send_message_length", -1),
        ("grpc.max_metadata_size", settings.max_header_bytes),
        ("grpc.absolute_max_metadata_size", settings.max_header_bytes),
        ("grpc.max_concurrent_streams", _STREAMS),
        ("grpc.max_connection_idle_ms", round(settings.keep_alive_timeout_s * 1000)),
        ("grpc.http2.min_recv_ping_interval_without_data_ms", _PINGS_MS),
        ("grpc.keepalive_permit_without_calls", 1),
        ("grpc.keepalive_time_ms", _PING_MS),
        ("grpc.keepalive_timeout_ms", _PING_TIMEOUT_MS),
    ]


def _call(context: Any) -> Call:
    return Call(context.time_remaining(), dict(context.invocation_metadata() or ()))


def _fail(context: Any, error: Exception) -> None:
    """Ends a call with the status of an error."""
    if not isinstance(error, ServingError):
        log.error("a call failed", exc_info=error)
        error = InternalError()
    status = status_of(error)
    context.set_code(_CODES[status.code])
    # What is encoded is cut to what trailers hold; grpcio encodes it again.
    context.set_details(unquote(status.encoded.decode(), errors="ignore"))
    after = pushback_ms(error)
    if after is not None:
        context.set_trailing_metadata((("grpc-retry-pushback-ms", str(after)),))
