"""The gRPC service under test: its transports, one that runs on a loop and thread of its own, and calls of raw bytes."""

from __future__ import annotations

import asyncio
import re
import socket
from collections.abc import Coroutine, Iterable, Iterator, Mapping
from concurrent.futures import Future
from contextlib import contextmanager
from dataclasses import dataclass
from importlib.util import find_spec
from threading import Event, Thread
from typing import Any
from urllib.parse import unquote

import grpc
import pytest
import uvloop

from serving.frontends.grpc import protocol, transport
from serving.frontends.grpc.transport import Service, Transport
from serving.settings import Settings
from tests.support.server import Server, wait_until

WITHIN_S = 10.0

TRANSPORTS = [
    pytest.param(
        name,
        marks=pytest.mark.skipif(find_spec(f"serving.frontends.grpc.{name}_transport") is None, reason="not built"),
    )
    for name in ("grpcio", "h2corn")
]
"""The parameters of a test that holds each transport to the same."""


def grpc_address(server: Server) -> str:
    """Where a server that was started with `--grpc-port` serves gRPC."""
    wait_until(lambda: "\ngRPC on " in server.output, WITHIN_S, "the line that tells the gRPC port")
    found = re.search(r"^gRPC on (\S+)$", server.output, re.MULTILINE)
    assert found is not None
    return found[1]


def reserved() -> socket.socket:
    """A loopback port as the supervisor hands it to workers: bound, free to be bound again, not listening."""
    reservation = socket.socket()
    reservation.bind(("127.0.0.1", 0))
    reservation.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
    return reservation


class Carried:
    """A transport on a loop of its own; `calls` and `requests` are its counts."""

    def __init__(self, loop: asyncio.AbstractEventLoop, made: Transport, address: str) -> None:
        self._loop = loop
        self._made = made
        self.address = address

    @property
    def calls(self) -> int:
        """How many are in flight."""
        return self._made.calls

    @property
    def requests(self) -> int:
        """How many there were."""
        return self._made.requests

    def stop(self, timeout_s: float) -> Future[None]:
        """Begins to stop it."""
        return self.run(self._made.stop(timeout_s))

    def run(self, work: Coroutine[Any, Any, Any]) -> Future[Any]:
        """Runs something on its loop."""
        return asyncio.run_coroutine_threadsafe(work, self._loop)


@contextmanager
def carried(service: Service, settings: Settings, bound: socket.socket | None = None) -> Iterator[Carried]:
    """A transport of the settings that serves for the length of a `with` block, on a port of its own or on `bound`."""
    loop = uvloop.new_event_loop()
    thread = Thread(target=loop.run_forever)
    thread.start()
    # What workers get is a copy of the supervisor's.
    sock = bound.dup() if bound is not None else reserved()
    address = transport.where(sock)

    async def make() -> Transport:
        made = transport.make(settings, service, [sock])
        await made.start()
        return made

    try:
        made = asyncio.run_coroutine_threadsafe(make(), loop).result(WITHIN_S)
        running = Carried(loop, made, address)
        yield running
        running.stop(0).result(WITHIN_S)
    finally:
        loop.call_soon_threadsafe(loop.stop)
        thread.join(WITHIN_S)
        loop.close()
        sock.close()


# ---------------------------------------------------------------- calls that fail


@dataclass(frozen=True, slots=True)
class Outcome:
    """How a call ended: the name of its code, its text, and when to try again."""

    code: str
    text: str
    pushback_ms: int | None


def failure(
    address: str, message: bytes | None, method: str = "ModelInfer", metadata: tuple[tuple[str, str], ...] = ()
) -> Outcome:
    """How a call fails; its message None: it never comes."""
    over = Event()

    def bodies() -> Iterator[bytes]:
        if message is None:
            over.wait(WITHIN_S)
        else:
            yield message

    with _channel(address) as channel:
        call = channel.stream_unary(protocol.PREFIX + method)
        error = call.future(bodies(), metadata=metadata, timeout=WITHIN_S).exception()
        over.set()
    assert error is not None, "the call did not fail"
    pushback = dict(error.trailing_metadata()).get("grpc-retry-pushback-ms")
    return Outcome(error.code().name, error.details(), None if pushback is None else int(pushback))


def outcome_of(trailers: Mapping[str, str]) -> Outcome:
    """What trailers tell."""
    pushback = trailers.get("grpc-retry-pushback-ms")
    code = next(code for code in grpc.StatusCode if code.value[0] == int(trailers["grpc-status"]))
    text = unquote(trailers.get("grpc-message", ""), errors="strict")
    return Outcome(code.name, text, None if pushback is None else int(pushback))


def streamed(address: str, bodies: Iterable[bytes]) -> list[bytes]:
    """The answers to the requests of a stream."""
    with _channel(address) as channel:
        return list(channel.stream_stream(f"{protocol.PREFIX}ModelStreamInfer")(iter(bodies), timeout=WITHIN_S))


def _channel(address: str) -> grpc.Channel:
    """A connection of its own: channels of one address share connections otherwise."""
    return grpc.insecure_channel(address, [("grpc.use_local_subchannel_pool", 1)])
