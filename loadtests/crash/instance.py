"""A server that is killed and started again on the same state: its processes, and the proof that none is left."""

from __future__ import annotations

import contextlib
import http.client
import os
import signal
import subprocess
import sys
import time
from dataclasses import dataclass, field
from pathlib import Path

import psutil

from loadtests.bench import servers
from loadtests.bench.servers import CannotStart, free_port
from loadtests.control.calls import KEYS

READY = "/v2/health/ready"
GONE_S = 10.0
READY_S = 60.0
ENDS_S = 45.0
POLL_S = 0.01


@dataclass(eq=False)
class Instance:
    """One server with a port and a state directory of its own; at most one run of it at a time."""

    folder: Path
    workers: int = 2
    executable: str | None = None
    database: str | None = None
    with_s3: bool = True
    port: int = field(default_factory=free_port)
    s3_port: int = field(default_factory=free_port)
    process: subprocess.Popen[bytes] | None = None

    @property
    def state_dir(self) -> Path:
        """What outlives every run."""
        return self.folder / "state"

    @property
    def models(self) -> Path:
        """From where `file://` is allowed."""
        return self.folder / "models"

    @property
    def log(self) -> Path:
        """What all runs printed."""
        return self.folder / "log"

    @property
    def pid(self) -> int:
        """The supervisor's."""
        assert self.process is not None
        return self.process.pid

    def start(self) -> None:
        """Starts it and does not wait."""
        program = Path(self.executable).absolute() if self.executable else Path(sys.executable).parent / "serving"
        command = [str(program), "up", "--host", "127.0.0.1", "--port", str(self.port)]
        command += ["--state-dir", str(self.state_dir), "--workers", str(self.workers)]
        command += ["--allow-path", str(self.models)]
        if self.with_s3:
            command += ["--with-s3", "--s3-port", str(self.s3_port)]
        if self.database is not None:
            command += ["--database", self.database]
        self.state_dir.mkdir(parents=True, exist_ok=True)
        self.models.mkdir(parents=True, exist_ok=True)
        with self.log.open("ab") as output:
            self.process = subprocess.Popen(
                command,
                env={**os.environ, "OMP_NUM_THREADS": "1", "PYTHONUNBUFFERED": "1", **KEYS},
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
                start_new_session=True,
                cwd=self.folder,
            )

    def is_ready(self) -> bool:
        """Whether it says so. Raises `CannotStart` when it has ended."""
        assert self.process is not None
        if self.process.poll() is not None:
            raise CannotStart(f"the server ended with {self.process.returncode}: {self.tail()}")
        try:
            return servers.get(self.port, READY)[0] == 200
        except (OSError, http.client.HTTPException):
            return False

    def wait_ready(self) -> None:
        """Returns once it is ready. Raises `CannotStart`."""
        limit = time.monotonic() + READY_S
        while not self.is_ready():
            if time.monotonic() > limit:
                raise CannotStart(f"the server was not ready within {READY_S:g} s: {self.tail()}")
            time.sleep(POLL_S)

    def worker_pids(self) -> list[int]:
        """The workers that run now."""
        try:
            children = psutil.Process(self.pid).children()
        except psutil.NoSuchProcess:
            return []
        return sorted(child.pid for child in children if _says(child, "serving.processes.worker"))

    def kill(self, pid: int) -> None:
        """kill -9 of one process, no other."""
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)
        if self.process is not None and pid == self.process.pid:
            self.process.wait()

    def left(self) -> list[psutil.Process]:
        """Every process of this server that runs: of its process group, or with its state directory in the command."""
        found = []
        for process in psutil.process_iter():
            with contextlib.suppress(psutil.Error, ProcessLookupError):
                ours = self.process is not None and os.getpgid(process.pid) == self.process.pid
                if (ours or _says(process, str(self.state_dir))) and process.status() != psutil.STATUS_ZOMBIE:
                    found.append(process)
        return found

    def wait_gone(self, within_s: float = GONE_S) -> list[str]:
        """Waits until no process is left; gives those that are, by command, and ends them."""
        limit = time.monotonic() + within_s
        while (left := self.left()) and time.monotonic() < limit:
            time.sleep(POLL_S)
        told = [_told(process) for process in left]
        for process in left:
            with contextlib.suppress(psutil.NoSuchProcess):
                process.kill()
        return told

    def stop(self) -> int:
        """Asks it to end and waits; gives its exit status. Raises subprocess.TimeoutExpired."""
        assert self.process is not None
        self.process.terminate()
        return self.process.wait(ENDS_S)

    def end(self) -> None:
        """Makes sure that nothing runs any more."""
        if self.process is not None and self.process.poll() is None:
            self.kill(self.process.pid)
        self.wait_gone(0.0)

    def tail(self) -> str:
        """The end of what it printed."""
        return self.log.read_bytes()[-1500:].decode(errors="replace").strip() if self.log.exists() else ""


def _says(process: psutil.Process, text: str) -> bool:
    with contextlib.suppress(psutil.Error):
        return any(text in part for part in process.cmdline())
    return False


def _told(process: psutil.Process) -> str:
    with contextlib.suppress(psutil.Error):
        return f"{process.pid} {' '.join(process.cmdline())[:120]}"
    return str(process.pid)
