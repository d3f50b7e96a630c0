"""A worker without its supervisor: a data plane with a multi-model endpoint over a folder of ONNX models, and its peers.

Run as a program it takes its number, how many there are, its listening socket, the folder and the secret; it ends with
its standard input.
"""

from __future__ import annotations

import asyncio
import socket
import subprocess
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from itertools import count
from pathlib import Path
from time import perf_counter
from typing import Any

import uvloop
from uvicorn.config import Config
from uvicorn.server import ServerState

from serving.contract import ModelConfig
from serving.errors import ServingError, TargetMissing
from serving.frontends.http.app import Pending
from serving.frontends.http.faces import Faces
from serving.frontends.http.head import Guard
from serving.frontends.http.lane import Connection
from serving.frontends.http.lane_state import LaneState
from serving.processes.peers import Peers
from serving.runtime.dataplane import DataPlane
from serving.runtime.invocation import Face, Head
from serving.runtime.model import Model, Pulse
from serving.runtime.multi_model import MultiModelEndpoint
from serving.runtime.placement import Key
from serving.runtime.routing import Endpoint, Snapshot
from serving.runtime.statistics import VariantStatistics
from serving.runtime.targets import Targets
from serving.runtime.wiring import EndpointWiring, Located, TargetsWiring
from serving.settings import Settings

NAME = "many"
SECRET = b"the workers' own"
BUDGET = 1 << 30


class Folder:
    """Implements `Source`: a target is a folder of that name."""

    def __init__(self, directory: Path, config: ModelConfig) -> None:
        self._directory = directory
        self._config = config
        self._numbers = count(1)
        self.loads: list[str] = []
        """The targets that were loaded, in their order."""

    async def locate(self, endpoint: str, target: str, revision: str) -> tuple[int, Located | None]:
        """Implements `Source`."""
        file = self._directory / target / "model.onnx"
        if not file.exists():
            raise TargetMissing(f"{endpoint} has no model {target}")
        config = ModelConfig(name=f"{endpoint}:{target}", batching=self._config.batching)
        wiring = EndpointWiring(endpoint, "AllTraffic", "onnx", str(file), config)
        return next(self._numbers), Located(wiring, "1", file.stat().st_size)

    def release(self, number: int) -> None:
        """Implements `Source`."""

    async def target_began(self, endpoint: str, target: str) -> int:
        """Implements `Source`."""
        self.loads.append(target)
        return next(self._numbers)

    def target_ended(self, number: int) -> None:
        """Implements `Source`."""


class Node:
    """One worker, on the running loop."""

    def __init__(
        self,
        number: int,
        listener: socket.socket,
        addresses: Sequence[bytes],
        directory: Path,
        *,
        secret: bytes = SECRET,
        max_calls: int = 1024,
        max_bytes: int = 64 << 20,
        copy: bool = True,
        config: ModelConfig | None = None,
    ) -> None:
        settings = Settings(state_dir=directory)
        self.settings = settings
        self.plane = DataPlane()
        self.copied: list[Key] = []
        self.source = Folder(directory, config or ModelConfig())
        pulse = Pulse()

        def copying(key: Key) -> None:
            self.copied.append(key)
            if copy:
                self.targets.want(key, Nobody(), perf_counter() + 60.0)

        self.peers = Peers(
            number, listener, addresses, secret, self.plane, max_bytes=max_bytes, max_calls=max_calls, copy=copying
        )
        self.targets = Targets(
            settings,
            self.source,
            lambda container, wiring, costs: Model(container, wiring.config, costs, pulse),
            self.peers,
        )
        self.targets.resize(BUDGET)
        wiring = EndpointWiring(
            NAME, "AllTraffic", "onnx", "", ModelConfig(name=NAME), TargetsWiring("file:///models/")
        )
        self.endpoint = MultiModelEndpoint(wiring, VariantStatistics(NAME, "AllTraffic"), self.targets, settings)
        self.targets.add(self.endpoint)
        self.wire()
        self._http: list[asyncio.Server] = []
        self._state = ServerState()
        self.lane = LaneState(self.plane, Faces("us-east-1", "123456789012"), Guard(("*",), ()), settings)

    def wire(self, *, served: bool = True) -> None:
        """Puts the endpoint in force, or nothing at all."""
        version = self.plane.snapshot.version + 1
        multi = (self.endpoint,) if served else ()
        self.plane.swap(Snapshot(version, (), NAME if served else None, "123456789012", multi))

    def invoke(self, head: Head, body: Any) -> Pending:
        """Sends a request as the app does."""
        pending = Pending()
        self.plane.invoke(head, body, pending)
        return pending

    def loaded(self, target: str) -> bool:
        """Whether a target is in this worker's memory."""
        return self.targets.cache.get((NAME, target)) is not None

    async def http(self) -> int:
        """Listens for HTTP on a free port."""
        config = Config(_no_app, http=Connection, ws="none", lifespan="off", loop="none", log_config=None)
        config.load()
        loop = asyncio.get_running_loop()
        server = await loop.create_server(
            lambda: Connection(config, self._state, {"lane": self.lane}, loop), "127.0.0.1", 0
        )
        self._http.append(server)
        port: int = server.sockets[0].getsockname()[1]
        return port

    async def close(self) -> None:
        """Ends what it holds, whatever is under way."""
        for server in self._http:
            server.close()
            await server.wait_closed()
        for link in self.peers._links:
            link.calls.clear()
            link.close()
        self.peers.leave()
        self.peers._listener.close()
        for service in self.peers.services.all:
            service.frames.abort()

    @property
    def ended(self) -> bool:
        """Whether no connection is left."""
        ends = (*self.peers._links, *self.peers.services.all)
        return not self._state.connections and all(end._frames is None or end._frames.closed for end in ends)


class Nobody:
    """Implements `Waiter`, waiting for nothing."""

    def served(self, endpoint: Endpoint) -> None:
        """Implements `Waiter`."""

    def refused(self, error: ServingError) -> None:
        """Implements `Waiter`."""


async def _no_app(scope: Any, receive: Any, send: Any) -> None:
    raise NotImplementedError


def head(target: str | None, **said: Any) -> Head:
    """The head of a JSON request to SageMaker's runtime."""
    made = Head(Face.RUNTIME, NAME)
    made.target_model = target
    made.content_type = "application/json"
    for name, value in said.items():
        setattr(made, name, value)
    return made


@contextmanager
def process(number: int, workers: int, listener: socket.socket, directory: Path) -> Iterator[subprocess.Popen[bytes]]:
    """A worker in a process of its own."""
    arguments = [str(number), str(workers), str(listener.fileno()), str(directory)]
    program = subprocess.Popen(
        [sys.executable, "-m", __name__, *arguments],
        pass_fds=[listener.fileno()],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        cwd=Path(__file__).parents[2],
    )
    try:
        assert program.stdout is not None
        assert program.stdout.readline() == b"ready\n"
        yield program
    finally:
        program.kill()
        program.communicate()


async def _main(number: int, workers: int, listener: socket.socket, directory: Path) -> None:
    addresses = [b""] * workers
    addresses[number] = listener.getsockname()
    node = Node(number, listener, addresses, directory)
    await node.peers.start()
    print("ready", flush=True)
    await asyncio.to_thread(sys.stdin.read)


if __name__ == "__main__":
    own, of, descriptor, models = sys.argv[1:]
    uvloop.run(_main(int(own), int(of), socket.socket(fileno=int(descriptor)), Path(models)))
