"""A worker: the data plane in a process of its own.

`python -m serving.processes.worker CHANNEL LIFELINE BOARD PEER http=SOCKET... grpc=SOCKET...`, all descriptors.
It takes its settings and its wiring from the supervisor and ends when the supervisor does: a thread reads the lifeline,
a pipe that nobody writes, and ends the process at its end of file, however busy the loop is.
"""

from __future__ import annotations

import asyncio
import gc
import logging
import os
import signal
import socket
import ssl
import sys
import threading
from collections.abc import Callable, Coroutine
from contextlib import suppress
from functools import partial
from time import perf_counter
from typing import TYPE_CHECKING, Any

import msgspec
import uvloop
from uvicorn.config import Config
from uvicorn.server import ServerState

from serving.control.call import Answer, Request
from serving.errors import InternalError, Overloaded, ServingError, Unavailable, encodable
from serving.frontends.http.app import Dated, HttpApp
from serving.frontends.http.faces import Faces
from serving.frontends.http.head import Guard
from serving.frontends.http.lane import Connection, check_uvicorn
from serving.frontends.http.lane_state import SWEEP_S, LaneState
from serving.frontends.http.tls import TlsContext
from serving.processes.acceptor import Acceptor
from serving.processes.board import Board
from serving.processes.channel import (
    Adjust,
    Answered,
    Ask,
    Began,
    Begin,
    Call,
    Change,
    Changed,
    Channel,
    Collect,
    Collected,
    Drain,
    Ended,
    Forget,
    Found,
    Gathered,
    Held,
    Lease,
    Locate,
    Prepare,
    Prepared,
    Release,
    TargetBegan,
    TargetEnded,
    ToSupervisor,
    ToWorker,
    Traced,
    Unfit,
    Wire,
    Wired,
)
from serving.processes.faults import raised, told
from serving.processes.holding import Holding
from serving.processes.listeners import Listeners
from serving.processes.peers import Peers
from serving.runtime.dataplane import DataPlane
from serving.runtime.tracing import Tracing
from serving.runtime.wiring import EndpointWiring, Located
from serving.settings import Settings
from serving.telemetry import logs
from serving.telemetry.accumulators import Sample

if TYPE_CHECKING:
    from serving.frontends.grpc.servicer import Servicer
    from serving.frontends.grpc.transport import Transport
    from serving.frontends.http.app import Admin

log = logging.getLogger("serving.worker")

_ASK_TIMEOUT_S = 5.0
_CONTROL_TIMEOUT_S = 600.0
_API_TIMEOUT_S = 60.0
_ON_ITS_WAY_S = 0.1
_TRACES_EVERY_S = 0.05
_ASKS = 64
_API_CALLS = 512


class Worker:
    """One worker process: snapshots in, requests served, numbers out."""

    def __init__(self, channel: Channel, begin: Begin, listeners: Listeners, board: Board, peer: socket.socket) -> None:
        self._channel = channel
        self._settings: Settings = begin.settings
        self._plane = DataPlane()
        self._holding = Holding(self._plane, begin.settings, self, self)
        self._targets = self._holding.targets
        self._peers = Peers(
            begin.worker,
            peer,
            begin.peers,
            begin.secret,
            self._plane,
            # A worker may be sent this by each of the others.
            max_bytes=max(begin.settings.max_body_bytes, begin.settings.max_in_flight_bytes // len(begin.peers)),
            copy=self._targets.copy,
        )
        if len(begin.peers) > 1:
            self._targets.forwarder = self._peers
        self._located: dict[int, asyncio.Future[Found]] = {}
        self._held = Held(0, 0)
        self._last_load = 0
        faces = Faces(begin.settings.region, begin.settings.account_id)
        self._lane = LaneState(self._plane, faces, Guard(begin.hosts, begin.origins), begin.settings)
        self._holding.bodies = lambda: self._lane.in_flight_bytes
        self._loop = asyncio.get_running_loop()
        self._asks: dict[int, asyncio.Future[Any]] = {}
        self._calls: dict[int, asyncio.Future[Any]] = {}
        self._last_call = 0
        self._done = asyncio.Event()
        self._tasks: set[asyncio.Task[None]] = set()
        self._state = ServerState()
        self._config = Config(
            Dated(HttpApp(self._lane, self).build(), self._lane),
            http=Connection,
            ws="none",
            lifespan="off",
            loop="none",
            log_config=None,
            access_log=False,
            server_header=False,
            date_header=False,
            proxy_headers=False,
        )
        self._config.load()
        self._tls = TlsContext.of(begin.settings)
        self._acceptor = Acceptor(
            listeners.http,
            self._connection,
            lambda: len(self._state.connections),
            begin.settings.max_connections,
            self._tls.context if self._tls else None,
            board,
            begin.worker,
        )
        self._servicer: Servicer | None = None
        self._grpc: Transport | None = None
        if listeners.grpc:
            self._servicer, self._grpc = _grpc(self._lane, self, begin.settings, listeners.grpc)
        self._failure: ServingError | OSError | None = None
        self._starting: asyncio.Task[None] | None = None

    async def run(self) -> None:
        """Serves until drained or until the supervisor is gone. Raises `ConfigurationError` where it cannot."""
        self._loop.call_later(SWEEP_S, self._sweep)
        reading = self._loop.create_task(self._read())
        self._loop.add_signal_handler(signal.SIGTERM, self._begin_drain)
        await self._done.wait()
        reading.cancel()
        if self._failure is not None:
            raise self._failure
        self._channel.close()

    # ------------------------------------------------------------------ messages

    async def _read(self) -> None:
        try:
            while (message := await self._channel.receive()) is not None:
                self._handle(message)
        except Exception:
            log.exception("the channel to the supervisor failed")
            os._exit(1)
        os._exit(0)

    def _handle(self, message: ToWorker) -> None:
        if isinstance(message, Wire | Prepare):
            self._spawn(self._wire(message) if isinstance(message, Wire) else self._prepare(message))
        elif isinstance(message, Forget):
            self._holding.forget(message.calls)
        elif isinstance(message, Collect):
            samples = self._samples() if message.what == "metrics" else []
            body = self._told_of(message.what, message.name)
            self._channel.send(Collected(message.call, samples, body))
        elif isinstance(message, Gathered):
            future = self._asks.pop(message.call, None)
            if future is not None and not future.done():
                if message.error:
                    future.set_exception(raised(message.error, message.message))
                else:
                    future.set_result(message.body)
        elif isinstance(message, Answered):
            answered = self._calls.pop(message.call, None)
            if answered is not None and not answered.done():
                answered.set_result(message.answer)
        elif isinstance(message, Drain):
            self._begin_drain()
        elif isinstance(message, Found):
            located = self._located.pop(message.call, None)
            if located is not None and not located.done():
                located.set_result(message)
            else:
                self._channel.send(Release(message.call))
        elif isinstance(message, Lease):
            self._targets.resize(message.memory_bytes)
        elif isinstance(message, Change):
            self._spawn(self._change(message))
        elif isinstance(message, Adjust):
            self._adjust(message)

    def _adjust(self, adjust: Adjust) -> None:
        logs.adjust(adjust.logs)
        later = partial(self._loop.call_later, _TRACES_EVERY_S)
        self._plane.trace(Tracing(adjust.traces, lambda traces: self._channel.offer(Traced(traces)), later))

    def _spawn(self, work: Coroutine[Any, Any, None]) -> None:
        task = self._loop.create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _prepare(self, prepare: Prepare) -> None:
        why = await self._holding.prepare(prepare.call, prepare.endpoint, alone=prepare.alone)
        self._channel.send(Prepared(prepare.call, why))

    async def began(self, call: int, wiring: EndpointWiring) -> int:
        """Implements `Loads`."""
        self._last_load += 1
        number = self._last_load
        self._channel.send(Began(number, call, wiring))
        await self._channel.sent()
        return number

    def ended(self, load: int) -> None:
        """Implements `Loads`."""
        self._channel.send(Ended(load))

    # ------------------------------------------------------------------ the models of multi-model endpoints

    async def locate(self, endpoint: str, target: str, revision: str) -> tuple[int, Located | None]:
        """Implements `Source`."""
        self._last_call += 1
        number = self._last_call
        found = self._located[number] = self._loop.create_future()
        self._channel.send(Locate(number, endpoint, target, revision))
        answer = await found
        if answer.error:
            raise raised(answer.error, answer.message, answer.retry_after_s)
        return number, answer.located

    def release(self, number: int) -> None:
        """Implements `Source`."""
        self._channel.send(Release(number))

    async def target_began(self, endpoint: str, target: str) -> int:
        """Implements `Source`."""
        self._last_load += 1
        number = self._last_load
        self._channel.send(TargetBegan(number, endpoint, target))
        await self._channel.sent()
        return number

    def target_ended(self, number: int) -> None:
        """Implements `Source`."""
        self._channel.send(TargetEnded(number))

    async def _change(self, change: Change) -> None:
        """Loads or unloads a target, as the supervisor was asked to."""
        try:
            await self._holding.change(change.what, change.endpoint, change.target)
            answer = Changed(change.call)
        except ServingError as error:
            answer = Changed(change.call, *told(error))
        except Exception:
            log.exception("a change of %s:%s failed", change.endpoint, change.target)
            answer = Changed(change.call, *told(InternalError()))
        self._channel.send(answer)

    def _tell_held(self) -> None:
        """Tells what the targets take, where that has changed."""
        held = Held(self._targets.cache.budget.held, self._targets.pressure, self._targets.cache.budget.bytes)
        if held != self._held:
            self._held = held
            self._channel.send(held)

    # ------------------------------------------------------------------ the wiring

    async def _wire(self, wire: Wire) -> None:
        missing, lines = await self._holding.wire(wire)
        # Remembered heads hold routes through the old snapshot.
        self._lane.memo.clear()
        self._peers.services.memo.clear()
        if self._servicer is not None:
            self._servicer.forget()
        if not self._lane.draining and not (missing and not self._accepting):
            try:
                await self._begin_to_accept()
            except (ServingError, OSError) as error:
                self._failure = error
                self._done.set()
                return
        self._channel.send(Wired(wire.version, missing, lines))

    async def _begin_to_accept(self) -> None:
        """Returns once all ports accept, whoever began that."""
        if self._starting is None:
            self._starting = self._loop.create_task(self._accept())
        await asyncio.shield(self._starting)

    async def _accept(self) -> None:
        if self._grpc is not None:
            await self._grpc.start()
        if not self._lane.draining:
            self._accepting = True
            self._spawn(self._peers.start())
            # What start-up made lives as long as the process: the collector need not look at it again.
            gc.collect()
            gc.freeze()
            self._acceptor.start()
        elif self._grpc is not None:
            # It was told to end while it began.
            await self._grpc.stop(0)

    _accepting = False

    # ------------------------------------------------------------------ what callers ask of all workers

    async def metrics(self) -> bytes:
        """Implements `Admin`."""
        return await self._ask("metrics", None)

    async def models(self, name: str | None) -> bytes:
        """Implements `Admin`."""
        return await self._ask("models", name)

    async def statistics(self, name: str | None) -> bytes:
        """Implements `Admin`."""
        return await self._ask("statistics", name)

    async def setting(self, what: str, name: str | None, changes: bytes) -> bytes:
        """Implements `Admin`."""
        return await self._ask(what, name, changes)

    async def repository(self, what: str, name: str | None, parameters: bytes) -> bytes:
        """Implements `Admin`."""
        # A load takes as long as it takes.
        return await self._ask(what, name, parameters, timeout_s=_CONTROL_TIMEOUT_S)

    async def container(self, what: str, name: str | None, parameters: bytes) -> bytes:
        """Implements `Admin`."""
        return await self._ask(what, name, parameters, timeout_s=_CONTROL_TIMEOUT_S)

    def _told_of(self, what: str, name: str | None) -> bytes:
        if what == "models":
            return self._holding.models(name)
        if what == "statistics":
            return self._holding.statistics(name)
        return msgspec.json.encode(self._targets.reports.states()) if what == "targets" else b""

    async def _ask(self, what: str, name: str | None, body: bytes = b"", timeout_s: float = _ASK_TIMEOUT_S) -> bytes:
        answer: bytes = await self._told(self._asks, lambda number: Ask(number, what, name, body), _ASKS, timeout_s)
        return answer

    async def api(self, request: Request) -> Answer:
        """Implements `Admin`."""
        answer: Answer = await self._told(self._calls, lambda number: Call(number, request), _API_CALLS, _API_TIMEOUT_S)
        return answer

    async def _told(
        self,
        waiting: dict[int, asyncio.Future[Any]],
        message: Callable[[int], ToSupervisor],
        most: int,
        timeout_s: float,
    ) -> Any:
        """What the supervisor answers to a message, one of `waiting`, which are `most` at most."""
        if len(waiting) >= most:
            raise Overloaded("too many administrative calls at once; try again", retry_after_s=1)
        self._last_call += 1
        number = self._last_call
        future = waiting[number] = self._loop.create_future()
        self._channel.send(message(number))
        try:
            return await asyncio.wait_for(future, timeout_s)
        except TimeoutError as error:
            raise Unavailable("the supervisor did not answer in time; try again", retry_after_s=1) from error
        finally:
            waiting.pop(number, None)

    def _samples(self) -> list[Sample]:
        lane = self._lane
        samples = [
            Sample("serving_connections", "gauge", (), len(self._state.connections)),
            Sample("serving_in_flight_bytes", "gauge", (), lane.in_flight_bytes),
            Sample("serving_unrouted_errors", "counter", (), self._plane.platform_errors),
            Sample("serving_http_requests", "counter", (), lane.requests),
        ]
        if self._grpc is not None:
            samples.append(Sample("serving_grpc_calls", "gauge", (), self._grpc.calls))
            samples.append(Sample("serving_grpc_requests", "counter", (), self._grpc.requests))
        return samples + self._holding.samples() + self._peers.samples()

    # ------------------------------------------------------------------ time and the end

    def _connection(self) -> asyncio.Protocol:
        return Connection(self._config, self._state, {"lane": self._lane}, self._loop)

    def _sweep(self) -> None:
        self._lane.tick()
        for connection in list(self._state.connections):
            connection.sweep()  # type: ignore[union-attr]
        if self._tls is not None:
            self._tls.reload_if_changed()
        self._targets.tick()
        self._tell_held()
        self._loop.call_later(SWEEP_S, self._sweep)

    def _begin_drain(self) -> None:
        if self._lane.draining:
            return
        self._lane.draining = True
        self._acceptor.stop()
        self._peers.leave()
        task = self._loop.create_task(self._drain())
        self._tasks.add(task)

    async def _drain(self) -> None:
        """Answers what is in flight, within the drain timeout, and ends."""
        ends = perf_counter() + self._settings.drain_timeout_s
        # What was sent before the end was told is in flight too, though it waits in the kernel to be read.
        await asyncio.sleep(min(_ON_ITS_WAY_S, self._settings.drain_timeout_s))
        for connection in list(self._state.connections):
            connection.shutdown()
        grpc = self._loop.create_task(self._stop_grpc(ends))
        with suppress(TimeoutError):
            while self._state.connections:
                self._lane.closed.clear()
                await asyncio.wait_for(self._lane.closed.wait(), max(ends - perf_counter(), 0.0))
        await grpc
        with suppress(TimeoutError):
            await asyncio.wait_for(self._peers.close(), max(ends - perf_counter(), 0.0))
        left = len(self._state.connections)
        if left:
            log.warning("%d connections were still busy after %g s", left, self._settings.drain_timeout_s)
        self._done.set()

    async def _stop_grpc(self, ends: float) -> None:
        if self._grpc is not None and self._accepting:
            await self._grpc.stop(max(ends - perf_counter(), 0.0))


def _watch_lifeline(descriptor: int) -> None:
    while os.read(descriptor, 1):
        pass
    os._exit(1)


def _grpc(
    lane: LaneState, admin: Admin, settings: Settings, sockets: list[socket.socket]
) -> tuple[Servicer, Transport]:
    """The gRPC service and what carries it; its libraries are imported where it is served only."""
    from serving.frontends.grpc import transport
    from serving.frontends.grpc.servicer import Servicer

    servicer = Servicer(lane, admin, settings)
    return servicer, transport.make(settings, servicer, sockets)


async def _main(channel_fd: int, board_fd: int, peer_fd: int, listeners: Listeners) -> None:
    stream = socket.socket(fileno=channel_fd)
    reader, writer = await asyncio.open_unix_connection(sock=stream)
    channel = Channel(reader, writer, ToWorker)
    begin = await channel.receive()
    if not isinstance(begin, Begin):
        return
    settings = begin.settings
    logs.configure(f"worker {begin.worker}", settings.log_format, settings.log_level, settings.state_dir / "logs")
    try:
        await Worker(channel, begin, listeners, Board(board_fd), socket.socket(fileno=peer_fd)).run()
    except (ServingError, ssl.SSLError, OSError) as error:
        channel.send(Unfit(encodable(str(error))))
        await channel.sent()
        return
    # Not by the loop's usual end, which waits for threads: a load or a run that nobody waits for may never end.
    os._exit(0)


def main() -> None:
    """The worker program."""
    # A terminal sends it to the whole group; the supervisor decides.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    channel_fd, lifeline_fd, board_fd, peer_fd = map(int, sys.argv[1:5])
    threading.Thread(target=_watch_lifeline, args=(lifeline_fd,), name="lifeline", daemon=True).start()
    check_uvicorn()
    uvloop.run(_main(channel_fd, board_fd, peer_fd, Listeners.of(sys.argv[5:])))


if __name__ == "__main__":
    main()
