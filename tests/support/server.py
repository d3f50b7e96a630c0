"""A real `serving up` process on free loopback ports, started, watched and ended by a test."""

from __future__ import annotations

import contextlib
import os
import re
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

import psutil

READY_WITHIN_S = 30.0
ENDS_WITHIN_S = 20.0
LEAVES_NOTHING_WITHIN_S = 5.0
POLL_S = 0.02


class DidNotStart(AssertionError):
    """The server ended or was not ready in time; carries what it printed."""


def free_ports(count: int) -> list[int]:
    """As many different loopback ports that nobody listens on now."""
    with contextlib.ExitStack() as stack:
        probes = [stack.enter_context(socket.socket()) for _ in range(count)]
        for probe in probes:
            probe.bind(("127.0.0.1", 0))
        return [probe.getsockname()[1] for probe in probes]


def wait_until(condition: Callable[[], bool], within_s: float, what: str) -> None:
    """Polls `condition` until it holds; after `within_s` seconds raises `AssertionError` that names `what`."""
    deadline = time.monotonic() + within_s
    while not condition():
        assert time.monotonic() < deadline, f"{what} was expected within {within_s} s"
        time.sleep(POLL_S)


@dataclass(slots=True)
class Server:
    """A running server: the supervisor and its workers in a process group of their own.

    `seen` are the processes that it was known to have, so that one that left the group is still found.
    """

    process: subprocess.Popen[bytes]
    port: int
    state_dir: Path
    log: Path
    host: str = "127.0.0.1"
    seen: set[psutil.Process] = field(default_factory=set)

    @property
    def url(self) -> str:
        """Where it answers HTTP."""
        return f"http://{self.host}:{self.port}"

    @property
    def pid(self) -> int:
        """The supervisor's."""
        return self.process.pid

    @property
    def output(self) -> str:
        """All that it has printed, standard output and error together."""
        return self.log.read_text(errors="replace")

    def unexpected(self) -> list[str]:
        """What it logged as an error, but for failures of models, which are theirs and not the server's."""
        records = re.split(r"(?m)^(?=[0-9]{2}:[0-9]{2}:[0-9]{2} )", self.output)
        errors = (record for record in records if " ERROR " in record or "Traceback" in record)
        return [record for record in errors if not re.search(r" ERROR +model \S+ version ", record)]

    def children(self) -> list[psutil.Process]:
        """Its workers and whatever else it has started; empty when it has ended."""
        try:
            children = psutil.Process(self.pid).children(recursive=True)
        except psutil.NoSuchProcess:
            return []
        self.seen.update(children)
        return children

    def processes(self) -> list[psutil.Process]:
        """All its processes that run, the supervisor first; one that has ended and waits for its parent does not."""
        self.children()
        found = []
        for process in {*psutil.process_iter(), *self.seen}:
            with contextlib.suppress(psutil.Error, ProcessLookupError):
                ours = process in self.seen or os.getpgid(process.pid) == self.pid
                if ours and process.is_running() and process.status() != psutil.STATUS_ZOMBIE:
                    found.append(process)
        return sorted(found, key=lambda process: process.pid != self.pid)

    def is_ready(self) -> bool:
        """Whether `/v2/health/ready` says so."""
        try:
            with urllib.request.urlopen(f"{self.url}/v2/health/ready", timeout=5) as answer:
                return bool(answer.status == 200)
        except (urllib.error.URLError, OSError):
            return False

    def wait_ready(self, within_s: float = READY_WITHIN_S) -> None:
        """Returns when it serves. Raises `DidNotStart` with its output when it ends or takes longer."""
        deadline = time.monotonic() + within_s
        while not self.is_ready():
            if self.process.poll() is not None:
                raise DidNotStart(f"the server ended with status {self.process.returncode}:\n{self.output}")
            if time.monotonic() > deadline:
                raise DidNotStart(f"the server was not ready after {within_s} s:\n{self.output}")
            time.sleep(POLL_S)

    def terminate(self, within_s: float = ENDS_WITHIN_S) -> int:
        """Asks it to end and waits for it; gives its exit status."""
        if self.process.poll() is None:
            self.process.terminate()
        return self.process.wait(within_s)

    def end(self, within_s: float = LEAVES_NOTHING_WITHIN_S) -> None:
        """Ends it, by force if need be, and proves that it left no process. Raises `AssertionError` if it did.

        The supervisor has `ENDS_WITHIN_S` to drain, and what it started another `within_s`.
        """
        try:
            self.children()
            self.terminate()
            wait_until(lambda: not self.processes(), within_s, "the end of all its processes")
        except (subprocess.TimeoutExpired, AssertionError) as error:
            left = ", ".join(f"{process.name()} {process.pid}" for process in self.processes())
            raise AssertionError(
                f"the server did not end cleanly, it left {left}; it printed\n{self.output}"
            ) from error
        finally:
            for process in self.processes():
                with contextlib.suppress(psutil.NoSuchProcess):
                    process.kill()
            self.process.wait(ENDS_WITHIN_S)


def start(*arguments: str | Path, state_dir: Path, env: dict[str, str] | None = None) -> Server:
    """Starts `serving up` with `arguments` on free loopback ports, not waiting for it; the caller ends it.

    `env` is added to this process's environment.
    """
    (port,) = free_ports(1)
    state_dir.mkdir(parents=True, exist_ok=True)
    command = [sys.executable, "-m", "serving.cli.main", "up", "--host", "127.0.0.1", "--port", str(port)]
    command += ["--state-dir", str(state_dir), *map(str, arguments)]
    log = state_dir.parent / f"{state_dir.name}.log"
    return Server(spawn(command, log, env or {}), port, state_dir, log)


def spawn(command: list[str], log: Path, env: dict[str, str]) -> subprocess.Popen[bytes]:
    """Starts a program in a process group of its own that prints to `log`."""
    with log.open("wb") as output:
        return subprocess.Popen(
            command,
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=subprocess.STDOUT,
            env={**os.environ, "PYTHONUNBUFFERED": "1", **env},
            start_new_session=True,
        )


@contextlib.contextmanager
def running(*arguments: str | Path, state_dir: Path, env: dict[str, str] | None = None) -> Iterator[Server]:
    """A ready server for the length of a `with` block, and no process of it afterwards."""
    server = start(*arguments, state_dir=state_dir, env=env)
    try:
        server.wait_ready()
        yield server
    finally:
        server.end()
