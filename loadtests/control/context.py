"""What every case of one run shares: files, sizes, cores, servers, and the report it adds to."""

from __future__ import annotations

import contextlib
import functools
import os
import sys
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from time import perf_counter

from loadtests.bench import servers
from loadtests.bench.context import say
from loadtests.bench.load import Load
from loadtests.bench.proc import Usage
from loadtests.bench.protocols import ENDPOINT
from loadtests.bench.servers import OURS, Launch, Server, free_port
from loadtests.bench.stats import Interval
from loadtests.control import calls
from loadtests.control.archives import IMAGE, Archive, archives
from loadtests.control.calls import KEYS, Raw
from loadtests.report import Report, Times

CALLERS = 8
READY = "/v2/health/ready"


@dataclass(frozen=True, slots=True)
class Sizes:
    """How much a run does."""

    endpoints: int = 200
    configs: int = 1_000
    deployed: int = 60
    waits: int = 10
    calls: int = 300
    starts: int = 3
    warming_starts: int = 1


QUICK = Sizes(endpoints=6, configs=20, deployed=3, waits=1, calls=5, starts=1, warming_starts=0)


@dataclass
class Context:
    """One run. Times in seconds; `rounds` is the number of ABBA rounds (two loads a variant each)."""

    folder: Path
    seconds: float
    rounds: int
    executable: str | None
    report: Report
    sizes: Sizes = field(default_factory=Sizes)
    server_core: int = 0
    load_core: int = 1
    _stack: contextlib.ExitStack = field(default_factory=contextlib.ExitStack)

    def close(self) -> None:
        """Removes what was made for this run alone."""
        self._stack.close()

    def archives(self, count: int) -> list[Archive]:
        """Model archives under the folder from which the servers read."""
        return archives(self.folder / "control", count)

    @contextlib.contextmanager
    def server(
        self,
        state_dir: Path | None = None,
        with_s3: int | None = None,
        environment: Mapping[str, str] = KEYS,
        core: int | None = None,
    ) -> Iterator[Server]:
        """A server with one worker, on the server core unless told; its state is its own unless given. `with_s3` is a port."""
        port = free_port()
        program = Path(self.executable).absolute() if self.executable else Path(sys.executable).parent / "serving"
        with tempfile.TemporaryDirectory(prefix="bench-state-") as fresh:
            command = [str(program), "up", "--host", "127.0.0.1", "--port", str(port), "--log-level", "warning"]
            command += ["--state-dir", str(state_dir or fresh)]
            command += ["--allow-path", str((self.folder / "control").resolve())]
            if with_s3 is not None:
                command += ["--with-s3", "--s3-port", str(with_s3)]
            where = str(self.server_core if core is None else core)
            with servers.running(OURS, Launch(command, READY, environment), port, where) as server:
                yield server

    @functools.cached_property
    def populated(self) -> Path:
        """The state of a server with all endpoints and configs, made when first asked for; its server has ended."""
        state = Path(self._stack.enter_context(tempfile.TemporaryDirectory(prefix="bench-populated-")))
        several = self.archives(self.sizes.endpoints)
        with self.server(state) as server:
            began = perf_counter()
            populate(server.port, several, self.sizes.configs)
            took = perf_counter() - began
        self.report.figure(f"populate: {self.sizes.endpoints} endpoints InService, {CALLERS} callers, s", took)
        say(f"  {self.sizes.endpoints} endpoints and {self.sizes.configs} configs made in {took:.1f} s")
        return state

    def times(self, case: str, what: str, seconds: Sequence[float], note: str = "") -> Times:
        """Adds a line to the table, and says so at once: a run takes long."""
        found = Times.of(case, what, seconds, note)
        self.report.times.append(found)
        say(f"  {what}: p50 {found.p50_ms:.2f}, p99 {found.p99_ms:.2f}, longest {found.longest_ms:.2f} ms {note}")
        return found

    def loads(self, case: str, what: str, load: Load, note: str) -> None:
        """Adds a load of wrk to the table, with wrk's own percentiles."""
        self.report.times.append(Times(case, what, load.requests, load.p50_ms, load.p99_ms, None, note))
        say(f"  {what}: p50 {load.p50_ms:.2f}, p99 {load.p99_ms:.2f} ms; {note}")

    def figure(self, name: str, value: float | Interval) -> None:
        """Records a figure."""
        found = self.report.figure(name, value)
        say("  " + "  ".join(cell for cell in found.cells() if cell))


def populate(port: int, several: Sequence[Archive], configs: int) -> None:
    """Deploys each archive as an endpoint and makes further configs up to that many; returns once all are InService."""

    def deploy(archive: Archive) -> None:
        with Raw(port) as raw:
            name = endpoint_name(archive)
            raw.call("CreateModel", **calls.model(name, IMAGE, archive.url))
            raw.call("CreateEndpointConfig", **calls.config(name, name))
            raw.call("CreateEndpoint", EndpointName=name, EndpointConfigName=name)
            in_service(raw, name)

    def more(number: int) -> None:
        with Raw(port) as raw:
            made = calls.config(f"more-{number:04}", endpoint_name(several[number % len(several)]))
            raw.call("CreateEndpointConfig", **made)

    with ThreadPoolExecutor(CALLERS) as callers:
        list(callers.map(deploy, several))
        list(callers.map(more, range(configs - len(several))))


def endpoint_name(archive: Archive) -> str:
    """What `populate` calls the endpoint, the config and the model of an archive."""
    return f"fraud-{archive.number:03}"


def in_service(raw: Raw, endpoint: str) -> None:
    """Returns once the endpoint is InService. Raises `NotServed` with its FailureReason."""
    found = raw.settled(endpoint)
    if found["EndpointStatus"] != "InService":
        raise NotServed(f"{endpoint} is {found['EndpointStatus']}: {found.get('FailureReason', 'without a reason')}")


class NotServed(Exception):
    """An endpoint did not come into service; the message says why."""


def check(server: Server, archive: Archive, endpoint: str) -> None:
    """Asks an endpoint one row. Raises `WrongAnswer` unless the answer is that archive's."""
    server.ask(ENDPOINT, archive.model(endpoint), archive.sample())


def split(server: Server) -> tuple[Usage, list[Usage]]:
    """The supervisor, and the workers (and whatever else it has started)."""
    supervisor, *others = server.usage()
    return supervisor, others


def pin(pid: int, core: int) -> None:
    """Moves a process with all its threads to one core."""
    for task in Path(f"/proc/{pid}/task").iterdir():
        with contextlib.suppress(ProcessLookupError):
            os.sched_setaffinity(int(task.name), {core})
