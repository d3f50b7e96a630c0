"""Systems under test as child processes: started pinned, awaited, asked one checked question, measured, ended whole."""

from __future__ import annotations

import contextlib
import dataclasses
import http.client
import os
import select
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from loadtests.bench import proc
from loadtests.bench.load import Load, LoadFailed, Target, Wrk
from loadtests.bench.models import BenchModel, Sample
from loadtests.bench.protocols import ENDPOINT, INVOCATIONS, V2_BINARY, V2_JSON, Protocol, WrongAnswer

READY_LIMIT_S = 60.0
STOP_LIMIT_S = 10.0


class CannotStart(Exception):
    """A system under test did not come up; the message holds the end of what it printed."""


@dataclass(frozen=True, slots=True)
class Launch:
    """How a system is started: command, extra environment, and the path that answers 200 when it is ready."""

    command: Sequence[str]
    ready_path: str
    environment: Mapping[str, str] = field(default_factory=dict)
    register_path: str = ""
    """Where a POST without a body loads the model, for a server that is ready without one."""


@dataclass(eq=False)
class Server:
    """A running system. `cores` is a taskset list such as "0" or "0,1"."""

    name: str
    port: int
    process: subprocess.Popen[bytes]
    cores: str
    log: Path
    started_s: float

    def usage(self) -> list[proc.Usage]:
        """Every process of this server."""
        return proc.tree(self.process.pid)

    def ask(self, protocol: Protocol, model: BenchModel, sample: Sample, check: bool = True) -> Target:
        """Sends one row and compares the answer, then gives the target for a load. Raises `WrongAnswer`."""
        request = protocol.request(model, sample)
        status, body = post(self.port, request.path, request.headers, request.body)
        if status != 200:
            raise WrongAnswer(f"{self.name} answered {status} to {request.path}: {body[:300]!r}")
        if check:
            protocol.check(body, sample.answer)
        return Target(self.port, request, protocol, sample.answer if check else None)

    def load(self, target: Target, connections: int, seconds: float, core: int, warm_s: float = 1.0) -> Load:
        """A checked burst at the same concurrency, then the measured run with the server's CPU."""
        if warm_s:
            with Wrk(target, connections, warm_s, core, check=True) as wrk:
                wrk.result()
        before = proc.cpu_seconds(self.process.pid)
        with Wrk(target, connections, seconds, core) as wrk:
            load = wrk.result()
        used = proc.cpu_seconds(self.process.pid) - before
        if load.errors:
            raise LoadFailed(f"{self.name}: {load.errors} errors in {load.requests} requests to {target.request.path}")
        return dataclasses.replace(load, cpu_s=used)


def post(port: int, path: str, headers: Mapping[str, str], body: bytes, timeout_s: float = 30) -> tuple[int, bytes]:
    """One POST on a connection of its own."""
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=timeout_s)
    try:
        connection.request("POST", path, body, dict(headers))
        answer = connection.getresponse()
        return answer.status, answer.read()
    finally:
        connection.close()


def get(port: int, path: str, timeout_s: float = 5) -> tuple[int, bytes]:
    """One GET on a connection of its own."""
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=timeout_s)
    try:
        connection.request("GET", path)
        answer = connection.getresponse()
        return answer.status, answer.read()
    finally:
        connection.close()


def free_port() -> int:
    """A port that nobody listens on now."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


@contextlib.contextmanager
def running(name: str, launch: Launch, port: int, cores: str = "0") -> Iterator[Server]:
    """The system from ready to gone. Raises `CannotStart`."""
    with tempfile.TemporaryDirectory(prefix=f"bench-{name}-") as folder:
        log = Path(folder) / "log"
        began = time.perf_counter()
        with log.open("wb") as output:
            process = subprocess.Popen(
                ["taskset", "-c", cores, *launch.command],
                env={**os.environ, "OMP_NUM_THREADS": "1", "PYTHONUNBUFFERED": "1", **launch.environment},
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
                start_new_session=True,
                cwd=folder,
            )
        try:
            await_ready(name, process, port, launch.ready_path, log)
            if launch.register_path:
                _register(name, port, launch.register_path, log)
            yield Server(name, port, process, cores, log, time.perf_counter() - began)
        finally:
            stop(process)


def await_ready(name: str, process: subprocess.Popen[bytes], port: int, path: str, log: Path) -> None:
    """Polls until the ready path answers 200. Raises `CannotStart` when the process ends or time is up."""
    limit = time.monotonic() + READY_LIMIT_S
    while time.monotonic() < limit:
        if process.poll() is not None:
            raise CannotStart(f"{name} ended with {process.returncode}: {_tail(log)}")
        try:
            if get(port, path)[0] == 200:
                return
        except (OSError, http.client.HTTPException):
            pass
        time.sleep(0.005)
    raise CannotStart(f"{name} was not ready within {READY_LIMIT_S:g} s: {_tail(log)}")


def _register(name: str, port: int, path: str, log: Path) -> None:
    """Has the server load its model. Raises `CannotStart`."""
    try:
        status, body = post(port, path, {}, b"", READY_LIMIT_S)
    except (OSError, http.client.HTTPException) as error:
        raise CannotStart(f"{name} did not answer {path} ({error}): {_tail(log)}") from error
    if status != 200:
        raise CannotStart(f"{name} answered {status} to {path}: {body[:300]!r}")


def stop(process: subprocess.Popen[bytes]) -> None:
    """Asks the group to end, then makes it, and with it the descendants that had left it for a session of their own."""
    group = process.pid
    with contextlib.ExitStack() as held:
        # Held by descriptor: by the time of the kill, a number may be another process's.
        family = [held.enter_context(_held(member.pid)) for member in proc.tree(group)]
        with contextlib.suppress(ProcessLookupError):
            os.killpg(group, signal.SIGTERM)
        with contextlib.suppress(subprocess.TimeoutExpired):
            process.wait(STOP_LIMIT_S)
        with contextlib.suppress(ProcessLookupError):
            os.killpg(group, signal.SIGKILL)
        for descriptor in family:
            if descriptor is not None:
                with contextlib.suppress(ProcessLookupError):
                    signal.pidfd_send_signal(descriptor, signal.SIGKILL)
                # Readable once the process has ended.
                select.select([descriptor], [], [], STOP_LIMIT_S)
    process.wait()


@contextlib.contextmanager
def _held(pid: int) -> Iterator[int | None]:
    """A descriptor of the process, so that it stays the one that is meant; None when it is gone already."""
    try:
        descriptor = os.pidfd_open(pid)
    except ProcessLookupError:
        yield None
        return
    try:
        yield descriptor
    finally:
        os.close(descriptor)


def _tail(log: Path) -> str:
    return log.read_bytes()[-1500:].decode(errors="replace").strip() or "it printed nothing"


@contextlib.contextmanager
def constant(cores: str = "0") -> Iterator[Server]:
    """The constant answer without any HTTP framework, for measuring the load generators themselves."""
    port = free_port()
    launch = Launch([sys.executable, "-m", "loadtests.bench.apps.constant", str(port)], "/", _our_modules())
    with running("constant", launch, port, cores) as server:
        yield server


def _our_modules() -> dict[str, str]:
    """Lets a program in a folder of its own import this package."""
    return {"PYTHONPATH": str(Path(__file__).parents[2])}


# What this server speaks.
OURS = "serving"
OUR_PROTOCOLS = (INVOCATIONS, V2_JSON, V2_BINARY)
OUR_ENDPOINT_PROTOCOL = ENDPOINT


@contextlib.contextmanager
def ours(
    models: Sequence[Path],
    workers: int = 1,
    cores: str = "0",
    executable: str | None = None,
    environment: Mapping[str, str] | None = None,
) -> Iterator[Server]:
    """This server with the given models, from the same environment as the benchmark or as `executable` says."""
    port = free_port()
    with tempfile.TemporaryDirectory(prefix="bench-state-") as state:
        # Made absolute, since the server runs in a folder of its own.
        program = Path(executable).absolute() if executable else Path(sys.executable).parent / "serving"
        command = [str(program), "up", "--host", "127.0.0.1"]
        command += ["--port", str(port), "--state-dir", state, "--workers", str(workers)]
        for model in models:
            command += ["--model", str(model)]
        with running(OURS, Launch(command, "/ping", environment or {}), port, cores) as server:
            yield server


@contextlib.contextmanager
def floor(cores: str = "0") -> Iterator[Server]:
    """The uvicorn bare ASGI floor in one process."""
    port = free_port()
    command = [sys.executable, "-m", "uvicorn", "loadtests.bench.apps.floor:app", "--host", "127.0.0.1"]
    command += ["--port", str(port), "--loop", "uvloop", "--http", "httptools", "--lifespan", "off"]
    command += ["--no-access-log", "--log-level", "warning"]
    with running("floor", Launch(command, "/", _our_modules()), port, cores) as server:
        yield server
