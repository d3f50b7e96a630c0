"""The servers under attack: a real one per transport."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Final, get_args

import psutil

from serving.settings import GrpcTransport
from tests.frontends.http2.calls import MODEL, ask
from tests.frontends.http2.frames import Connection
from tests.support import onnx_models as models
from tests.support import server as support
from tests.support.server import Server, free_ports, wait_until

TRANSPORTS: Final[tuple[str, ...]] = get_args(GrpcTransport)

MEBIBYTE: Final = 1 << 20


@dataclass(slots=True)
class Target:
    """A running server with one worker; `processes` are all of its."""

    transport: str
    port: int
    server: Server
    processes: list[psutil.Process]

    @property
    def resident_bytes(self) -> int:
        """What all of it holds in memory (`VmRSS`)."""
        return sum(process.memory_info().rss for process in self.processes)

    @property
    def cpu_s(self) -> float:
        """What all of it has used of processors."""
        return sum(sum(process.cpu_times()[:2]) for process in self.processes)

    @property
    def connections(self) -> int:
        """Its connections that are open or half closed."""
        every = (each for process in self.processes for each in process.net_connections("tcp"))
        return sum(each.laddr.port == self.port and each.status != psutil.CONN_LISTEN for each in every)

    @property
    def logged_bytes(self) -> int:
        """What it has printed."""
        return self.server.log.stat().st_size

    @property
    def alive(self) -> bool:
        """Whether all of it runs."""
        return all(process.is_running() and process.status() != psutil.STATUS_ZOMBIE for process in self.processes)

    def serves(self) -> bool:
        """Whether a call on a new connection is answered."""
        try:
            with Connection(self.port) as connection:
                connection.greet()
                return ask(connection, 1) is None
        except OSError:
            return False


@contextlib.contextmanager
def running(transport: str, directory: Path, **settings: float) -> Iterator[Target]:
    """A server of the model `echo`, UINT8[N,M], with this transport."""
    model = models.echo(directory / f"{MODEL}.onnx", "UINT8")
    (port,) = free_ports(1)
    arguments = ("--model", model, "--grpc-port", str(port), "--grpc-transport", transport)
    env = {f"SERVING_{name.upper()}": str(value) for name, value in settings.items()}
    with support.running(*arguments, state_dir=directory / f"state-{transport}", env=env) as server:
        target = Target(transport, port, server, server.processes())
        wait_until(target.serves, support.READY_WITHIN_S, "a call that is answered")
        yield target
