"""The supervisor: owns the listening sockets and the wiring, starts workers, replaces those that die, drains on SIGTERM.

Nothing it does can stall an invocation: workers accept from the shared sockets by themselves and only ask it for what
concerns the whole server.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import secrets
import signal
import socket
import sys
from collections.abc import Callable, Mapping, Sequence
from time import monotonic
from typing import Any

import msgspec
import orjson

from serving.errors import BadRequest, ConfigurationError, ServingError, Unavailable
from serving.frontends.grpc import transport
from serving.objects.catalogue import Catalogue, Entry
from serving.objects.watch import Place
from serving.processes import peer_sockets, presence
from serving.processes.adjustments import Adjustments
from serving.processes.api import Api
from serving.processes.board import ABSENT, Board
from serving.processes.channel import (
    Answered,
    Ask,
    Began,
    Begin,
    Call,
    Changed,
    Channel,
    Collect,
    Collected,
    Drain,
    Ended,
    Gathered,
    Held,
    Locate,
    Prepared,
    Release,
    TargetBegan,
    TargetEnded,
    ToSupervisor,
    Traced,
    Unfit,
    Wire,
    Wired,
)
from serving.processes.control import Control
from serving.processes.faults import told
from serving.processes.handle import WorkerHandle
from serving.processes.listeners import Listeners
from serving.processes.loads import Loads
from serving.processes.roster import Roster
from serving.processes.target_control import TargetControl
from serving.processes.targets import Targets
from serving.runtime import inference_counts
from serving.runtime.turns import give_way
from serving.runtime.wiring import EndpointWiring, Versions
from serving.settings import Aws, Settings
from serving.telemetry import collector
from serving.telemetry.accumulators import Sample

log = logging.getLogger("serving.supervisor")

_NICE = 10
_COLLECT_S = 1.0
_STEADY_S = 10.0
_BACKOFF_S = 0.1
_BACKOFF_LIMIT_S = 5.0
_KILL_AFTER_S = 5.0
_PUT_S = 120.0
_WIRE_AGAIN_S = 1.0
_WIRE_AGAIN_LIMIT_S = 30.0


class Supervisor:
    """Runs the server. Of the models in `entries`, all workers serve the same ones; implements `Workers` and `Team`."""

    def __init__(self, settings: Settings, catalogue: Catalogue, entries: Mapping[Place, Entry], aws: Aws) -> None:
        self._settings = settings
        self._roster = Roster(self)
        self._control = Control(settings, catalogue, entries, self._roster)
        self._api = Api(settings, aws, self._roster)
        self._wire = Wire(0, (), None)
        self._listeners = Listeners([], [])
        self._board = Board.make(settings.workers)
        self._peers = peer_sockets.listen(settings.workers)
        self._secret = secrets.token_bytes(32)
        self._workers: dict[int, WorkerHandle] = {}
        self._starts = 0
        self._last_call = 0
        self._stopping = asyncio.Event()
        self._failure: str | None = None
        self._loads = Loads(self)
        self._targets = Targets(settings, self, lambda: self._wire.endpoints, self._api.target_artifacts)
        self._target_control = TargetControl(settings, self, self._targets)
        self._restoring = False
        self._scraping = asyncio.Lock()
        self._ready = asyncio.Event()
        self._news = asyncio.Event()
        self._retired: list[Sample] = []
        self._retired_counts: dict[tuple[str, str], dict[str, Any]] = {}
        self._adjustments = Adjustments(settings, lambda: self._wire.endpoints)
        self._tasks: set[asyncio.Task[None]] = set()

    async def run(self) -> None:
        """Serves until told to stop. Raises `ConfigurationError` when the first workers cannot serve."""
        loop = asyncio.get_running_loop()
        # Model data is unpacked here, beside workers that answer requests.
        give_way(_NICE)
        if self._settings.grpc_port is not None:
            transport.check(self._settings)
        self._listeners = Listeners.bind(self._settings)
        for signum in (signal.SIGTERM, signal.SIGINT):
            loop.add_signal_handler(signum, self._stop)
        try:
            for number in range(self._settings.workers):
                self._spawn(self._keep(number))
            self._spawn(self._serve())
            await self._first_of(self._ready.wait(), self._stopping.wait())
            if self._failure is None and not self._stopping.is_set():
                self._tell_presence()
                for line in self._api.lines():
                    say(line)
                say("ready")
                await self._stopping.wait()
        finally:
            presence.remove(self._settings.state_dir)
            await self._end()
        if self._failure is not None:
            raise ConfigurationError(self._failure)

    async def _serve(self) -> None:
        """Brings the models into force, and keeps them as they are on disk where that is wanted."""
        try:
            await asyncio.gather(self._control.start(), self._api.open())
            # From here on the end of a worker is not the server's: a model of earlier may have become one that ends it.
            self._restoring = True
            await self._api.restore()
        except ServingError as error:
            if not self._stopping.is_set():
                self._fail(error.message)
            return
        await self._roster.open()
        self._spawn(self._api.run())
        if self._settings.model_control_mode == "poll":
            await self._control.watch()

    def _tell_presence(self) -> None:
        try:
            presence.write(self._settings.state_dir, self._api.presence(self.url, os.getpid(), self.grpc_address))
        except ConfigurationError as error:
            # A full disk, or one that is only read: `serving env` does not find the server, and that is all.
            log.error("%s; `serving env` will not find this server", error.message)

    @property
    def url(self) -> str:
        """Where the server listens."""
        scheme = "https" if self._settings.tls_cert else "http"
        return f"{scheme}://{transport.where(self._listeners.http[0])}"

    @property
    def grpc_address(self) -> str | None:
        """Where it serves gRPC, as its clients have it: `127.0.0.1:8001`."""
        return transport.where(self._listeners.grpc[0]) if self._listeners.grpc else None

    # ------------------------------------------------------------------ workers

    async def _keep(self, number: int) -> None:
        """Keeps worker `number` alive: starts it, listens to it, starts it again when it ends."""
        backoff = _BACKOFF_S
        while not self._stopping.is_set():
            try:
                worker = await self._start(number)
            except OSError as error:
                if not self._ready.is_set():
                    raise
                backoff = min(backoff * 2, _BACKOFF_LIMIT_S)
                log.error("worker %d could not be started (%s); trying again", number, error.strerror)
                await self._first_of(asyncio.sleep(backoff), self._stopping.wait())
                continue
            self._workers[number] = worker
            self._news.set()
            while (message := await worker.channel.receive()) is not None:
                self._handle(worker, message)
            code = await worker.process.wait()
            self._bury(worker)
            if self._stopping.is_set():
                return
            if not self._ready.is_set() and not self._restoring:
                self._fail(f"worker {number} ended with {_how(code)} before it was ready")
                return
            steady = monotonic() - worker.started > _STEADY_S
            backoff = _BACKOFF_S if steady else min(backoff * 2, _BACKOFF_LIMIT_S)
            log.error("worker %d (pid %d) ended with %s; starting another", number, worker.process.pid, _how(code))
            if not steady:
                await self._first_of(asyncio.sleep(backoff), self._stopping.wait())

    async def _start(self, number: int) -> WorkerHandle:
        ours, theirs = socket.socketpair()
        read_end, write_end = os.pipe()
        descriptors = [theirs.fileno(), read_end, self._board.descriptor, self._peers[number].fileno()]
        try:
            process = await asyncio.create_subprocess_exec(
                sys.executable,
                "-m",
                "serving.processes.worker",
                *map(str, descriptors),
                *self._listeners.arguments,
                pass_fds=(*descriptors, *self._listeners.descriptors),
                stdin=asyncio.subprocess.DEVNULL,
            )
        except OSError:
            ours.close()
            os.close(write_end)
            raise
        finally:
            theirs.close()
            os.close(read_end)
        reader, writer = await asyncio.open_unix_connection(sock=ours)
        channel = Channel(reader, writer, ToSupervisor)
        worker = WorkerHandle(number, process, channel, write_end)
        self._starts += 1
        peers = tuple(peer.getsockname() for peer in self._peers)
        channel.send(Begin(number, self._settings, *trusted(self._settings), peers, self._secret))
        channel.send(self._adjustments.message)
        self._targets.started(worker)
        if self._wire.version:
            channel.send(self._wire)
        if self._stopping.is_set():
            channel.send(Drain())
        return worker

    def _bury(self, worker: WorkerHandle) -> None:
        if self._workers.get(worker.number) is worker:
            del self._workers[worker.number]
        self._board[worker.number] = ABSENT
        os.close(worker.lifeline)
        worker.channel.close()
        self._targets.buried(worker)
        self._loads.buried(worker)
        self._news.set()
        # What it counted when last asked stays counted, so that counters do not fall when a worker is replaced.
        counted = [sample for sample in worker.samples if sample.kind != "gauge"]
        self._retired = collector.merge((self._retired, counted))
        rows = inference_counts.merge((*self._retired_counts.values(), *worker.counts.values()))
        self._retired_counts = {(row["name"], row["version"]): row for row in rows}

    def _handle(self, worker: WorkerHandle, message: ToSupervisor) -> None:
        if isinstance(message, Wired):
            self._wired(worker, message)
        elif isinstance(message, Began):
            self._loads.began(worker, message)
        elif isinstance(message, Ended):
            self._loads.ended(worker, message)
        elif isinstance(message, Prepared):
            self._loads.prepared(worker, message)
        elif isinstance(message, Locate | Release | TargetBegan | TargetEnded | Held | Changed):
            self._targets.handle(worker, message)
        elif isinstance(message, Traced):
            if self._adjustments.traced(message):
                self._tell_adjustments()
        elif isinstance(message, Unfit):
            self._unfit(worker, message)
        elif isinstance(message, Collected):
            call = worker.calls.pop(message.call, None)
            if call is not None and not call.done():
                call.set_result(message)
        elif isinstance(message, Ask):
            self._spawn(self._answer(worker, message))
        elif isinstance(message, Call):
            self._spawn(self._answer_api(worker, message))

    def _wired(self, worker: WorkerHandle, message: Wired) -> None:
        given = [why for endpoint, why in message.missing if endpoint.name in self._roster.names()]
        if given and not self._ready.is_set():
            self._fail(given[0])
            return
        first = all(other.version < 1 for other in self._workers.values())
        worker.version = message.version
        worker.lacking = worker.lacking + 1 if message.missing else 0
        if message.missing:
            self._lacking(worker, message)
        if first and not self._ready.is_set() and not self._stopping.is_set():
            say(f"serving on {self.url}")
            for line in message.lines:
                say(f"  {line}")
            if self.grpc_address is not None:
                say(f"gRPC on {self.grpc_address}")
        self._news.set()
        if self._everywhere():
            self._ready.set()

    def _unfit(self, worker: WorkerHandle, message: Unfit) -> None:
        if self._ready.is_set():
            log.error("worker %d cannot serve: %s", worker.number, message.why)
        else:
            self._fail(message.why)

    def _lacking(self, worker: WorkerHandle, message: Wired) -> None:
        """A worker cannot load all that it should serve, and takes no calls if it is new: it tries again, or goes without."""
        for endpoint, why in message.missing:
            log.error("worker %d cannot load the model %s: %s", worker.number, endpoint.name, why)
        if message.version == self._wire.version and (worker.lacking > 1 or not self._ready.is_set()):
            for endpoint, why in message.missing:
                self.lose(endpoint, why)
        if message.version == self._wire.version:
            self._spawn(self._wire_again(worker))

    async def _wire_again(self, worker: WorkerHandle) -> None:
        """Lets a worker try once more what it could not load, unless it ends meanwhile."""
        pause_s = min(_WIRE_AGAIN_S * 2.0 ** min(worker.lacking - 1, 10), _WIRE_AGAIN_LIMIT_S)
        await self._first_of(asyncio.sleep(pause_s), self._stopping.wait())
        if self._workers.get(worker.number) is worker and not self._stopping.is_set():
            worker.channel.send(self._wire)

    # ------------------------------------------------------------------ the team that loads

    @property
    def ready(self) -> bool:
        """Implements `Team`."""
        return self._ready.is_set()

    def workers(self) -> Sequence[WorkerHandle]:
        """Implements `Team`."""
        return sorted(self._workers.values(), key=lambda worker: worker.number)

    async def complete(self, *, settled: bool) -> Sequence[WorkerHandle]:
        """Implements `Team`."""

        def all_there() -> bool:
            staying = [worker for worker in self._workers.values() if not worker.leaving]
            return len(staying) == self._settings.workers and (not settled or self._everywhere())

        if not await self._until(all_there):
            raise Unavailable("the server is stopping")
        return self.workers()

    def replace(self, worker: WorkerHandle, why: str) -> None:
        """Implements `Team`."""
        log.error("worker %d (pid %d) is replaced: %s", worker.number, worker.process.pid, why)
        worker.leaving = True
        worker.channel.send(Drain())
        asyncio.get_running_loop().call_later(self._settings.drain_timeout_s + _KILL_AFTER_S, _kill, worker)

    def lose(self, endpoint: EndpointWiring, why: str) -> None:
        """Implements `Team`: the workers go on without an endpoint of the control API."""
        if self._roster.lose(endpoint, why):
            self._rewire(tuple(one for one in self._wire.endpoints if one.name != endpoint.name), self._wire.default)

    # ------------------------------------------------------------------ what workers serve

    async def prepare(
        self, endpoints: Sequence[EndpointWiring], patience_s: float | None = None
    ) -> tuple[list[str], list[int]]:
        """Implements `Workers`."""
        return await self._loads.prepare(endpoints, patience_s)

    def forget(self, calls: Sequence[int]) -> None:
        """Implements `Workers`."""
        self._loads.forget(calls)

    async def put(self, endpoints: Versions, default: str | None) -> None:
        """Implements `Workers`."""
        self._rewire(endpoints, default)
        try:
            await asyncio.wait_for(self._until(self._everywhere), _PUT_S)
        except TimeoutError:
            log.error("not every worker serves what it should after %g s", _PUT_S)

    def _rewire(self, endpoints: Versions, default: str | None) -> None:
        self._wire = Wire(self._wire.version + 1, endpoints, default)
        self._retired_counts = self._current(self._retired_counts)
        for worker in self._workers.values():
            worker.counts = self._current(worker.counts)
        for worker in self._workers.values():
            worker.channel.send(self._wire)

    def _everywhere(self) -> bool:
        """Whether every worker serves what is wired."""
        return len(self._workers) == self._settings.workers and all(
            worker.version == self._wire.version > 0 for worker in self._workers.values()
        )

    async def _until(self, condition: Callable[[], bool]) -> bool:
        """Waits for news of the workers until the condition holds; False once the server stops."""
        while not self._stopping.is_set():
            if condition():
                return True
            self._news.clear()
            await self._news.wait()
        return False

    # ------------------------------------------------------------------ what concerns all workers

    async def _gather(self, ask: Ask) -> bytes:
        if ask.what == "metrics":
            await self._answers(ask.what, None)
            # A worker that does not answer counts with what it said last; one that ended meanwhile is among the retired.
            samples = [worker.samples for worker in self._workers.values()]
            groups = (*samples, self._retired, self._own_samples())
            # With hundreds of endpoints it takes most of a second, in which workers and callers would wait.
            async with self._scraping:
                return await asyncio.to_thread(lambda: collector.text(collector.merge(groups)))
        if ask.what == "statistics":
            return orjson.dumps(await self._counts(ask.name))
        rows = await self._rows(ask.what, ask.name)
        if ask.name is None:
            rows += [msgspec.to_builtins(row) for row in self._control.unavailable()]
        return orjson.dumps(rows)

    async def _counts(self, name: str | None) -> list[Any]:
        """The statistics of all models or one; a worker that does not answer counts with what it said last."""
        asked = list(self._workers.values())
        answers = await asyncio.gather(*(self._collect(worker, "statistics", name) for worker in asked))
        told = {worker: orjson.loads(answer.body) for worker, answer in zip(asked, answers, strict=True) if answer}
        served = dict.fromkeys(key for key in self._versions() if name in (None, key[0]))
        rows: list[Any] = []
        # One that ended meanwhile is among the retired, with its answer.
        for worker in self._workers.values():
            last = [worker.counts[key] for key in served if key in worker.counts]
            rows += told.get(worker, last)
        served |= dict.fromkeys((row["name"], row["version"]) for row in rows)
        return rows + [self._retired_counts[key] for key in served if key in self._retired_counts]

    def _versions(self) -> list[tuple[str, str]]:
        return [(wiring.name, wiring.config.version) for wiring in self._wire.endpoints]

    def _current(self, counts: Mapping[tuple[str, str], dict[str, Any]]) -> dict[tuple[str, str], dict[str, Any]]:
        """What was counted of models that are served, in these versions and the last others."""
        names = {wiring.name for wiring in self._wire.endpoints}
        kept = inference_counts.lasting(counts, self._versions())
        return {key: row for key, row in counts.items() if key in kept and key[0] in names}

    async def _rows(self, what: str, name: str | None) -> list[Any]:
        """What all workers tell in JSON."""
        return [row for answer in await self._answers(what, name) for row in orjson.loads(answer.body)]

    async def _answers(self, what: str, name: str | None) -> list[Collected]:
        collecting = (self._collect(worker, what, name) for worker in list(self._workers.values()))
        return [answer for answer in await asyncio.gather(*collecting) if answer is not None]

    async def _answer(self, asker: WorkerHandle, ask: Ask) -> None:
        """Answers a worker; whatever goes wrong is told to its caller alone."""
        gather = self._gather if ask.what in ("metrics", "models", "statistics") else self._manage
        if ask.what in ("logging", "trace"):
            gather = self._adjust
        if ask.what.startswith("container-"):
            gather = self._target_control.container
        try:
            reply = Gathered(ask.call, await gather(ask))
        except ConfigurationError as error:
            reply = Gathered(ask.call, b"", BadRequest.__name__, error.message)
        except Exception as error:
            if not isinstance(error, ServingError):
                log.exception("a call (%s) failed", ask.what)
            reply = Gathered(ask.call, b"", *told(error))
        asker.channel.send(reply)

    async def _adjust(self, ask: Ask) -> bytes:
        """Tells or changes what is set while the server runs."""
        state, changed = self._adjustments.carry_out(ask)
        if changed:
            self._tell_adjustments()
            # What a worker answers after it was told, it answers as it was told to be.
            await self._answers("adjusted", None)
        return state

    def _tell_adjustments(self) -> None:
        for worker in self._workers.values():
            worker.channel.send(self._adjustments.message)

    async def _answer_api(self, asker: WorkerHandle, call: Call) -> None:
        asker.channel.send(Answered(call.call, await self._api.answer(call.request)))

    async def _manage(self, ask: Ask) -> bytes:
        """Carries out a call of the repository API."""
        if ask.name is None:
            ready_only = bool(ask.body)
            targets = self._target_control.index(await self._rows("targets", None), ready_only=ready_only)
            return msgspec.json.encode([*await self._control.index(ready_only=ready_only), *targets])
        owner = self._target_control if ":" in ask.name else self._control
        if ask.what == "load":
            await owner.load(ask.name, ask.body.decode() or None)
        else:
            await owner.unload(ask.name)
        return b""

    async def _collect(self, worker: WorkerHandle, what: str, name: str | None) -> Collected | None:
        self._last_call += 1
        number = self._last_call
        call: asyncio.Future[Collected] = asyncio.get_running_loop().create_future()
        worker.calls[number] = call
        worker.channel.send(Collect(number, what, name))
        try:
            answer = await asyncio.wait_for(call, _COLLECT_S)
        except (TimeoutError, asyncio.CancelledError):
            return None
        finally:
            worker.calls.pop(number, None)
        if what == "metrics":
            worker.samples = answer.samples
        elif what == "statistics":
            rows = [row for row in orjson.loads(answer.body) if ":" not in row["name"]]
            worker.counts.update({(row["name"], row["version"]): row for row in rows})
        return answer

    def _own_samples(self) -> list[Sample]:
        samples = [Sample("serving_worker_starts", "counter", (), self._starts)]
        for name, variant in dict.fromkeys((wiring.name, wiring.variant) for wiring in self._wire.endpoints):
            labels = (("endpoint_name", name), ("variant_name", variant))
            samples.append(Sample("serving_endpoint_in_service", "gauge", labels, int(self._everywhere())))
        return samples + self._control.samples() + self._api.samples() + self._targets.samples()

    # ------------------------------------------------------------------ the end

    def _stop(self) -> None:
        if self._stopping.is_set():
            for worker in self._workers.values():
                with contextlib.suppress(ProcessLookupError):
                    worker.process.kill()
        self._stopping.set()
        self._news.set()

    def _fail(self, why: str) -> None:
        if self._failure is None:
            self._failure = why
        self._stopping.set()
        self._news.set()

    async def _end(self) -> None:
        """Drains the workers and waits for their end; kills those that do not come to it."""
        self._listeners.close()
        for peer in self._peers:
            peer.close()
        self._api.release()
        workers = list(self._workers.values())
        for worker in workers:
            worker.channel.send(Drain())
        waits = [asyncio.ensure_future(worker.process.wait()) for worker in workers]
        if waits:
            limit = 0.0 if self._failure else self._settings.drain_timeout_s + _KILL_AFTER_S
            _, slow = await asyncio.wait(waits, timeout=limit)
            for worker in workers:
                if worker.process.returncode is None:
                    with contextlib.suppress(ProcessLookupError):
                        worker.process.kill()
            if slow:
                await asyncio.wait(slow)
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        self._targets.close()
        await self._api.close()

    def _spawn(self, work: Any) -> None:
        task = asyncio.get_running_loop().create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._ended)

    def _ended(self, task: asyncio.Task[None]) -> None:
        self._tasks.discard(task)
        if not task.cancelled() and task.exception() is not None:
            log.error("the supervisor failed", exc_info=task.exception())
            self._fail("the supervisor failed; its log has the cause")

    async def _first_of(self, *waits: Any) -> None:
        tasks = [asyncio.ensure_future(wait) for wait in waits]
        await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
        for task in tasks:
            task.cancel()


def trusted(settings: Settings) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """Origins and Host names that may call: the loopback ones, the bound one, and what the operator allowed."""
    hosts = {"localhost", "127.0.0.1", "[::1]", settings.host, *settings.allowed_hosts}
    if settings.allow_unauthenticated and not settings.allowed_hosts:
        # Reached by names that only the operator's network knows; the operator took that on.
        hosts.add("*")
    return tuple(sorted(settings.allowed_origins)), tuple(sorted(hosts))


def say(line: str) -> None:
    """A line for the person who started the server."""
    with contextlib.suppress(BrokenPipeError):
        print(line, flush=True)


def _kill(worker: WorkerHandle) -> None:
    if worker.process.returncode is None:
        with contextlib.suppress(ProcessLookupError):
            worker.process.kill()


def _how(code: int) -> str:
    if code < 0:
        with contextlib.suppress(ValueError):
            return f"signal {signal.Signals(-code).name}"
    return f"exit code {code}"
