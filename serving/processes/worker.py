"""A worker: the data plane in a process of its own. `python -m serving.processes.worker CHANNEL_FD LIFELINE_FD BOARD_FD SOCKET_FD...`

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
from contextlib import suppress
from pathlib import Path
from time import perf_counter
from typing import Any, NamedTuple

import msgspec
import uvloop
from uvicorn.config import Config
from uvicorn.server import ServerState

from serving.codecs.plan import InputPlan
from serving.contract import ModelConfig
from serving.errors import BadRequest, InternalError, Overloaded, ServingError, Unavailable, Unsupported, encodable
from serving.frontends.http.app import Dated, HttpApp
from serving.frontends.http.faces import Faces
from serving.frontends.http.head import Guard
from serving.frontends.http.lane import Connection, check_uvicorn
from serving.frontends.http.lane_state import SWEEP_S, LaneState
from serving.frontends.http.tls import TlsContext
from serving.processes.acceptor import Acceptor
from serving.processes.board import Board
from serving.processes.channel import (
    Ask,
    Begin,
    Channel,
    Collect,
    Collected,
    Drain,
    Gathered,
    Prepare,
    Prepared,
    ToWorker,
    Wire,
    Wired,
)
from serving.runtime import memory
from serving.runtime.caching import make_model
from serving.runtime.dataplane import DataPlane
from serving.runtime.loading import load
from serving.runtime.model import Pulse
from serving.runtime.response_cache import ResponseCache
from serving.runtime.routing import Endpoint, Snapshot
from serving.runtime.statistics import VariantStatistics
from serving.runtime.wiring import EndpointWiring
from serving.settings import Settings
from serving.telemetry import logs
from serving.telemetry.accumulators import Sample

log = logging.getLogger("serving.worker")

_ASK_TIMEOUT_S = 5.0
_CONTROL_TIMEOUT_S = 600.0
_ON_ITS_WAY_S = 0.1

_ANSWERED = {kind.__name__: kind for kind in (BadRequest, InternalError, Unavailable, Unsupported)}
"""The errors that the supervisor answers with."""


class Loaded(NamedTuple):
    """A model in memory, and the wiring that it was loaded for."""

    wiring: EndpointWiring
    endpoint: Endpoint


class Worker:
    """One worker process: snapshots in, requests served, numbers out."""

    def __init__(self, channel: Channel, begin: Begin, sockets: list[socket.socket], board: Board) -> None:
        self._channel = channel
        self._settings: Settings = begin.settings
        self._plane = DataPlane()
        self._pulse = Pulse()
        self._cache = ResponseCache(begin.settings.response_cache_bytes)
        faces = Faces(begin.settings.region, begin.settings.account_id)
        self._lane = LaneState(self._plane, faces, Guard(begin.hosts, begin.origins), begin.settings)
        self._loop = asyncio.get_running_loop()
        self._calls: dict[int, asyncio.Future[bytes]] = {}
        self._last_call = 0
        self._done = asyncio.Event()
        self._served: dict[tuple[str, str], Loaded] = {}
        self._prepared: dict[tuple[str, str], Loaded] = {}
        self._statistics: dict[tuple[str, str], VariantStatistics] = {}
        self._wiring_lock = asyncio.Lock()
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
            sockets,
            self._connection,
            lambda: len(self._state.connections),
            begin.settings.max_connections,
            self._tls.context if self._tls else None,
            board,
            begin.worker,
        )

    async def run(self) -> None:
        """Serves until drained or until the supervisor is gone."""
        self._loop.call_later(SWEEP_S, self._sweep)
        reading = self._loop.create_task(self._read())
        self._loop.add_signal_handler(signal.SIGTERM, self._begin_drain)
        await self._done.wait()
        reading.cancel()
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
            work = self._wire(message) if isinstance(message, Wire) else self._prepare(message)
            task = self._loop.create_task(work)
            self._tasks.add(task)
            task.add_done_callback(self._tasks.discard)
        elif isinstance(message, Collect):
            samples = self._samples() if message.what == "metrics" else []
            body = b"" if message.what == "metrics" else self._models(message.name)
            self._channel.send(Collected(message.call, samples, body))
        elif isinstance(message, Gathered):
            future = self._calls.pop(message.call, None)
            if future is not None and not future.done():
                if message.error:
                    future.set_exception(_ANSWERED.get(message.error, InternalError)(message.message))
                else:
                    future.set_result(message.body)
        elif isinstance(message, Drain):
            self._begin_drain()

    async def _prepare(self, prepare: Prepare) -> None:
        """Loads what will be wired next, beside what is in force."""
        failures: list[tuple[int, str]] = []
        async with self._wiring_lock:
            for number, wiring in enumerate(prepare.endpoints):
                try:
                    if self._known(wiring) is None:
                        self._drop(self._prepared.pop(_key(wiring), None))
                        self._prepared[_key(wiring)] = Loaded(wiring, await self._load(wiring))
                except Exception as error:
                    failures.append((number, _reason(error, f"model {wiring.name} could not be loaded")))
        self._channel.send(Prepared(prepare.call, tuple(failures)))

    async def _wire(self, wire: Wire) -> None:
        """Loads what is new and was not prepared, swaps the snapshot, closes what is gone."""
        async with self._wiring_lock:
            served: dict[tuple[str, str], Loaded] = {}
            made: list[Loaded] = []
            try:
                for wiring in wire.endpoints:
                    found = self._known(wiring)
                    if found is None:
                        found = Loaded(wiring, await self._load(wiring))
                        made.append(found)
                    served[_key(wiring)] = found
            except Exception as error:
                for loaded in made:
                    self._drop(loaded)
                self._channel.send(Wired(wire.version, _reason(error, "a snapshot could not be put in force"), ()))
                return
            before = (*self._served.values(), *self._prepared.values())
            lines = [describe(loaded.endpoint) for key, loaded in served.items() if self._served.get(key) is not loaded]
            endpoints = [self._counted(loaded.endpoint) for loaded in served.values()]
            self._plane.swap(Snapshot(wire.version, endpoints, wire.default, self._settings.account_id))
            self._lane.memo.clear()  # remembered heads hold routes through the old snapshot
            self._served, self._prepared = served, {}
            names = {(wiring.name, wiring.variant) for wiring in wire.endpoints}
            self._statistics = {key: counted for key, counted in self._statistics.items() if key in names}
            for loaded in before:
                if served.get(_key(loaded.wiring)) is not loaded:
                    self._drop(loaded)
            if not self._lane.draining:
                self._begin_to_accept()
            self._channel.send(Wired(wire.version, "", tuple(lines)))

    def _known(self, wiring: EndpointWiring) -> Loaded | None:
        """What is loaded for exactly this wiring."""
        for place in (self._served, self._prepared):
            found = place.get(_key(wiring))
            if found is not None and found.wiring == wiring:
                return found
        return None

    def _counted(self, endpoint: Endpoint) -> Endpoint:
        """The endpoint, counting on where the model that had its name and version before it stopped."""
        before = self._served.get((endpoint.name, endpoint.model.version))
        if before is not None:
            endpoint.model.statistics = before.endpoint.model.statistics
        return endpoint

    def _drop(self, loaded: Loaded | None) -> None:
        """Closes a model that no snapshot holds, once it has answered everybody, and gives its memory back."""
        if loaded is not None:
            loaded.endpoint.model.close(self._give_back)

    def _give_back(self) -> None:
        self._loop.run_in_executor(None, memory.give_back)

    def _begin_to_accept(self) -> None:
        if not self._accepting:
            self._accepting = True
            # What start-up made lives as long as the process: the collector need not look at it again.
            gc.collect()
            gc.freeze()
            self._acceptor.start()

    _accepting = False

    async def _load(self, wiring: EndpointWiring) -> Endpoint:
        started = perf_counter()
        artifact = Path(wiring.artifact)
        container, costs = await asyncio.to_thread(load, wiring.container, artifact, wiring.config, self._settings)
        model = make_model(self._cache, container, wiring.config, costs, self._pulse)
        log.info("model %s version %s loaded in %.0f ms", model.name, model.version, (perf_counter() - started) * 1e3)
        key = (wiring.name, wiring.variant)
        statistics = self._statistics.setdefault(key, VariantStatistics(*key))
        return Endpoint(wiring.name, wiring.variant, model, InputPlan(container.spec, wiring.config.name), statistics)

    # ------------------------------------------------------------------ what callers ask of all workers

    async def metrics(self) -> bytes:
        """Implements `Admin`."""
        return await self._ask("metrics", None)

    async def models(self, name: str | None) -> bytes:
        """Implements `Admin`."""
        return await self._ask("models", name)

    async def repository(self, what: str, name: str | None, parameters: bytes) -> bytes:
        """Implements `Admin`."""
        # A load takes as long as it takes.
        return await self._ask(what, name, parameters, timeout_s=_CONTROL_TIMEOUT_S)

    async def _ask(self, what: str, name: str | None, body: bytes = b"", timeout_s: float = _ASK_TIMEOUT_S) -> bytes:
        if len(self._calls) >= 64:
            raise Overloaded("too many administrative calls at once; try again", retry_after_s=1)
        self._last_call += 1
        number = self._last_call
        future = self._calls[number] = self._loop.create_future()
        self._channel.send(Ask(number, what, name, body))
        try:
            return await asyncio.wait_for(future, timeout_s)
        except TimeoutError as error:
            raise Unavailable("the supervisor did not answer in time; try again", retry_after_s=1) from error
        finally:
            self._calls.pop(number, None)

    def _samples(self) -> list[Sample]:
        lane = self._lane
        samples = [
            Sample("serving_connections", "gauge", (), len(self._state.connections)),
            Sample("serving_in_flight_bytes", "gauge", (), lane.in_flight_bytes),
            Sample("serving_unrouted_errors", "counter", (), self._plane.platform_errors),
            Sample("serving_http_requests", "counter", (), lane.requests),
        ]
        for counted in self._statistics.values():
            samples.extend(counted.samples())
        for _, endpoint in self._served.values():
            model = endpoint.model
            samples.extend(model.samples())
            labels = (("model", model.name), ("version", model.version))
            samples.append(Sample("serving_queue_requests", "gauge", labels, model.batcher.queued))
        return samples

    def _models(self, name: str | None) -> bytes:
        endpoints = [loaded.endpoint for loaded in self._served.values()]
        if name is None:
            return msgspec.json.encode([_summary(endpoint) for endpoint in endpoints])
        return msgspec.json.encode([row for one in endpoints if one.name == name for row in one.model.records()])

    # ------------------------------------------------------------------ time and the end

    def _connection(self) -> asyncio.Protocol:
        return Connection(self._config, self._state, {"lane": self._lane}, self._loop)

    def _sweep(self) -> None:
        self._lane.tick()
        for connection in list(self._state.connections):
            connection.sweep()  # type: ignore[union-attr]
        if self._tls is not None:
            self._tls.reload_if_changed()
        self._loop.call_later(SWEEP_S, self._sweep)

    def _begin_drain(self) -> None:
        if self._lane.draining:
            return
        self._lane.draining = True
        self._acceptor.stop()
        task = self._loop.create_task(self._drain())
        self._tasks.add(task)

    async def _drain(self) -> None:
        """Answers what is in flight, within the drain timeout, and ends."""
        ends = perf_counter() + self._settings.drain_timeout_s
        # What was sent before the end was told is in flight too, though it waits in the kernel to be read.
        await asyncio.sleep(min(_ON_ITS_WAY_S, self._settings.drain_timeout_s))
        for connection in list(self._state.connections):
            connection.shutdown()
        with suppress(TimeoutError):
            while self._state.connections:
                self._lane.closed.clear()
                await asyncio.wait_for(self._lane.closed.wait(), max(ends - perf_counter(), 0.0))
        left = len(self._state.connections)
        if left:
            log.warning("%d connections were still busy after %g s", left, self._settings.drain_timeout_s)
        self._done.set()


def _key(wiring: EndpointWiring) -> tuple[str, str]:
    return wiring.name, wiring.config.version


def _reason(error: Exception, what: str) -> str:
    """Why something failed, as text that every encoding takes; the log has what is no `ServingError`."""
    if not isinstance(error, ServingError):
        log.error("%s", what, exc_info=error)
    return encodable(str(error)) or type(error).__name__


def _summary(endpoint: Endpoint) -> dict[str, Any]:
    model = endpoint.model
    return {
        "name": endpoint.name,
        "variant": endpoint.variant,
        "version": model.version,
        "platform": model.spec.platform,
        "batched": model.spec.batched,
        "why_not_batched": model.spec.why_not_batched,
        "max_batch_rows": model.batcher.policy.max_rows,
        "slots": model.batcher.policy.slots,
        "queued_requests": model.batcher.queued,
        "queued_rows": model.batcher.queued_rows,
        "predicted_wait_us": round(model.batcher.predicted_wait(perf_counter()) * 1e6, 1),
        "batches": {f"{reason} ({mode})": count for (reason, mode), count in model.statistics.reasons.items()},
        "response_cache": model.cached(),
        "pid": os.getpid(),
    }


def describe(endpoint: Endpoint) -> str:
    """One line for a person: what an endpoint takes and how it is batched."""
    spec = endpoint.model.spec
    inputs = ", ".join(f"{tensor.name} {tensor.datatype}{_shape(tensor.shape)}" for tensor in spec.inputs)
    outputs = ", ".join(f"{tensor.name} {tensor.datatype}{_shape(tensor.shape)}" for tensor in spec.outputs)
    policy = endpoint.model.batcher.policy
    batching = f"batches up to {policy.max_rows} rows" if spec.batched else f"not batched: {spec.why_not_batched}"
    version = "" if endpoint.model.version == ModelConfig().version else f" version {endpoint.model.version}"
    return f"{endpoint.name}{version}: {inputs} -> {outputs}; {batching}"


def _shape(shape: tuple[int, ...]) -> str:
    return "[" + ",".join("N" if size < 0 else str(size) for size in shape) + "]"


def _watch_lifeline(descriptor: int) -> None:
    while os.read(descriptor, 1):
        pass
    os._exit(1)


async def _main(channel_fd: int, board_fd: int, socket_fds: list[int]) -> None:
    stream = socket.socket(fileno=channel_fd)
    reader, writer = await asyncio.open_unix_connection(sock=stream)
    channel = Channel(reader, writer, ToWorker)
    begin = await channel.receive()
    if not isinstance(begin, Begin):
        return
    logs.configure(f"worker {begin.worker}", begin.settings.log_format, begin.settings.log_level)
    sockets = [socket.socket(fileno=descriptor) for descriptor in socket_fds]
    try:
        await Worker(channel, begin, sockets, Board(board_fd)).run()
    except (ServingError, ssl.SSLError, OSError) as error:
        channel.send(Wired(0, str(error), ()))
        await asyncio.sleep(0.1)


def main() -> None:
    """The worker program."""
    # A terminal sends it to the whole group; the supervisor decides.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    channel_fd, lifeline_fd, board_fd, *socket_fds = (int(argument) for argument in sys.argv[1:])
    threading.Thread(target=_watch_lifeline, args=(lifeline_fd,), name="lifeline", daemon=True).start()
    check_uvicorn()
    uvloop.run(_main(channel_fd, board_fd, socket_fds))
    # Slot threads may still be in a run that nobody waits for.
    os._exit(0)


if __name__ == "__main__":
    main()
