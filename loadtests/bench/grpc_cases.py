"""The gRPC cases: `ModelInfer` with raw contents beside uvicorn's HTTP floor and the no-server limit, and both faces at once."""

from __future__ import annotations

import contextlib
import dataclasses
import json
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Final

from loadtests.bench import proc, servers
from loadtests.bench.cases import ENCODER_RUNS, GRPC_TRANSPORTS
from loadtests.bench.compare import interleave, rate_ratio
from loadtests.bench.context import Context
from loadtests.bench.grpc_calls import PATH, Client, message
from loadtests.bench.h2load import H2load
from loadtests.bench.load import Load, LoadFailed, Wrk
from loadtests.bench.models import ENCODER, FRAUD, BenchModel
from loadtests.bench.protocols import ENDPOINT, INVOCATIONS
from loadtests.bench.rows import FLOOR, row
from loadtests.bench.servers import OURS, Server
from loadtests.bench.stats import mean

FACE_CONNECTIONS: Final = 8
"""Callers of each face in the mixed case: a batch of more requests than these holds both faces'."""


@dataclass(frozen=True, slots=True)
class Face:
    """The gRPC port of a running server."""

    server: Server
    port: int

    def load(self, context: Context, model: BenchModel, connections: int) -> Callable[[], Load]:
        """A measured run after a short one to warm up, with checked calls before, meanwhile and after, to be called."""
        sample = context.sample(model)
        asked = message(model, sample)

        def run(seconds: float) -> Load:
            with H2load(self.port, PATH, asked, connections, seconds, context.load_core) as running:
                return running.result()

        def measure() -> Load:
            with Client(self.port, model, sample) as client:
                client.ask()
                run(1.0)
                before = proc.cpu_seconds(self.server.process.pid)
                with client.asking():
                    load = run(context.seconds)
                used = proc.cpu_seconds(self.server.process.pid) - before
                client.ask()
            if load.errors:
                raise LoadFailed(f"{load.errors} errors in {load.requests} calls of {model.name}")
            return dataclasses.replace(load, cpu_s=used)

        return measure


@contextlib.contextmanager
def served(context: Context, model: BenchModel, transport: str) -> Iterator[Face]:
    """This server with a gRPC port carried by that transport."""
    port = servers.free_port()
    settings = {"SERVING_GRPC_PORT": str(port), "SERVING_GRPC_TRANSPORT": transport}
    paths, core = [context.path(model)], str(context.server_core)
    with servers.ours(paths, cores=core, executable=context.executable, environment=settings) as server:
        yield Face(server, port)


def fraud(context: Context, connections: int) -> None:
    """Each transport and the floor, interleaved."""
    case = f"grpc/fraud-mlp/c{connections}"
    with contextlib.ExitStack() as stack:
        floor = stack.enter_context(servers.floor(str(context.server_core)))
        base = floor.ask(INVOCATIONS, FRAUD, context.sample(FRAUD), check=False)
        variants = {FLOOR: context.load(floor, base, connections)}
        for transport in GRPC_TRANSPORTS:
            face = stack.enter_context(served(context, FRAUD, transport))
            variants[_system(transport)] = face.load(context, FRAUD, connections)
        loads = interleave(variants, context.rounds)
    for name, several in loads.items():
        context.row(row(case, name, several, rate_ratio(several, loads[FLOOR])))
    ours = loads[_system(GRPC_TRANSPORTS[0])]
    context.figure(f"{case}: requests/s to the HTTP floor", rate_ratio(ours, loads[FLOOR]))
    context.figure(f"{case}: p99 ms", mean([load.p99_ms for load in ours]))


def encoder(context: Context, connections: int, batch: int) -> None:
    """Single runs, each against the limit measured right before and after it; the worst of them decides."""
    case = f"grpc/encoder/c{connections}"
    transport = GRPC_TRANSPORTS[0]
    loads, shares = [], []
    with served(context, ENCODER, transport) as face:
        measure = face.load(context, ENCODER, connections)
        for _ in range(1 if context.quick else ENCODER_RUNS):
            load, limit = context.between_limits(ENCODER, (16, 32), measure)
            loads.append(load)
            shares.append(load.requests_per_s / limit.rows_per_s(batch))
    middle = sorted(shares)[len(shares) // 2]
    context.row(row(case, _system(transport), loads, to_limit=middle))
    context.figure(f"{case}: rows/s to session.run at batch {batch}", middle, min(shares))
    context.figure(f"{case}: p99 ms", mean([load.p99_ms for load in loads]))


def mixed(context: Context) -> None:
    """Callers of both faces at once; the server's account of its batches shows that they share them."""
    sample = context.sample(ENCODER)
    asked = message(ENCODER, sample)
    transport = GRPC_TRANSPORTS[0]
    with served(context, ENCODER, transport) as face, Client(face.port, ENCODER, sample) as client:
        target = face.server.ask(ENDPOINT, ENCODER, sample)
        client.ask()
        with (
            Wrk(target, FACE_CONNECTIONS, context.seconds, context.load_core) as http,
            H2load(face.port, PATH, asked, FACE_CONNECTIONS, context.seconds, context.load_core) as http2,
        ):
            both = {ENDPOINT.name: http.result(), _system(transport): http2.result()}
        batches = _batches(face.server)
        client.ask()
    for name, load in both.items():
        if load.errors:
            raise LoadFailed(f"{load.errors} errors in {load.requests} calls of {name}")
        context.row(dataclasses.replace(row("grpc/mixed", name, [load]), cpu_us=None))  # the process serves both
    shared = sum(requests > FACE_CONNECTIONS for requests in batches) / len(batches)
    context.figure("grpc/mixed: batches that hold more requests than one face's callers", shared)


def _batches(server: Server) -> list[int]:
    """How many requests each of the last batches held. Raises `LoadFailed` where there is no account of any."""
    status, body = servers.get(server.port, f"/debug/models/{ENCODER.name}/batches")
    found = [batch["requests"] for batch in json.loads(body)] if status == 200 else []
    if not found:
        raise LoadFailed(f"the server gave no account of its batches: {status} {body[:300]!r}")
    return found


def _system(transport: str) -> str:
    return f"{OURS} grpc {transport}"
