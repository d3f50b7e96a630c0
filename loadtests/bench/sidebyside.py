"""This server and its peers on both models, one after the other: closed loop beside the floor, then open loop."""

from __future__ import annotations

import contextlib
import dataclasses
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from dataclasses import dataclass
from http.client import HTTPException

from loadtests.bench import arrivals, harness, ideal, servers
from loadtests.bench.cases import PEER_CONNECTIONS, PEER_SHARES
from loadtests.bench.compare import rate_ratio
from loadtests.bench.context import Context
from loadtests.bench.load import Load, LoadFailed, Target
from loadtests.bench.models import ENCODER, FRAUD, BenchModel
from loadtests.bench.peers.catalogue import BATCH, PEERS, Peer
from loadtests.bench.peers.environments import CannotInstall
from loadtests.bench.protocols import INVOCATIONS, Protocol, WrongAnswer
from loadtests.bench.rows import FLOOR, Row, row
from loadtests.bench.servers import OURS, CannotStart, Server
from loadtests.bench.table import TABLE_SHARE

FIRST_ANSWER_LIMIT_S = 30.0
MOST_REQUESTS = 200_000
NOTE = (
    "peers: one worker each, on the server's core like this server, with their own batching of up to "
    f"{BATCH} rows on encoder where they have one (Triton's and pytriton's on both models); those of several processes (see the notes) share that one core "
    "between them, and would do better with a core for each; a share of load is of a system's own closed-loop "
    "requests/s at the most connections"
)

Failure = (CannotStart, LoadFailed, WrongAnswer)


@dataclass(frozen=True, slots=True)
class System:
    """A server under comparison. `start` runs it on one model until its block ends."""

    name: str
    protocol: Protocol
    start: Callable[[BenchModel], AbstractContextManager[Server]]


class Deadline:
    """The time that one system has for one model; checked between loads, each of which is bounded itself."""

    def __init__(self, seconds: float) -> None:
        self.seconds = seconds
        self.end = time.monotonic() + seconds

    def check(self) -> None:
        """Raises `LoadFailed` when the time is up."""
        if time.monotonic() > self.end:
            raise LoadFailed(f"left out: the {self.seconds:.0f} s for this system and model were over")


def run(context: Context) -> None:
    """Every system on both models; a peer that cannot be installed or started is a row with the reason."""
    context.report.notes.append(NOTE)
    if not context.open_loop_rate:
        harness.run(context)
    _system(context, System(f"{OURS} {INVOCATIONS.name}", INVOCATIONS, context.ours))
    for peer in PEERS:
        try:
            _system(context, _installed(context, peer))
        except CannotInstall as error:
            context.report.absent[peer.system] = str(error)
            context.row(Row("peers", peer.system, note=str(error)))


def _installed(context: Context, peer: Peer) -> System:
    home = peer.environment(context.folder / "peers")

    def start(model: BenchModel) -> AbstractContextManager[Server]:
        return peer.running(home, model, context.path(model), str(context.server_core))

    return System(peer.system, peer.protocol, start)


def _system(context: Context, system: System) -> None:
    for model in (FRAUD, ENCODER):
        with _reason(context, model.name, system.name), system.start(model) as server:
            target = _first_answer(context, system, server, model)
            trial = Trial(context, system, model, server, target, Deadline(60 + 40 * context.seconds * context.rounds))
            if model is FRAUD:
                with servers.floor(str(context.server_core)) as floor:
                    trial.beside(floor)
            else:
                trial.against_limit()
            trial.open_loop()


@contextlib.contextmanager
def _reason(context: Context, case: str, system: str) -> Iterator[None]:
    """A block that cannot be measured is a row with the reason."""
    try:
        yield
    except Failure as error:
        context.report.absent[f"{system} in {case}"] = " ".join(str(error).split())[-300:]
        context.row(Row(case, system, note=str(error)))


def _first_answer(context: Context, system: System, server: Server, model: BenchModel) -> Target:
    """One checked answer. Waits for it, since some servers say that they are ready before their workers are."""
    limit = time.monotonic() + FIRST_ANSWER_LIMIT_S
    while True:
        try:
            return server.ask(system.protocol, model, context.sample(model))
        except (WrongAnswer, OSError, HTTPException) as error:
            if time.monotonic() > limit:
                raise CannotStart(f"no right answer within {FIRST_ANSWER_LIMIT_S:g} s: {error}") from error
        time.sleep(0.05)


@dataclass(frozen=True, slots=True)
class Trial:
    """One running system on one model."""

    context: Context
    system: System
    model: BenchModel
    server: Server
    target: Target
    deadline: Deadline

    def beside(self, floor: Server) -> None:
        """Closed loop, each load next to one of the floor's."""
        context = self.context
        base = floor.ask(INVOCATIONS, self.model, context.sample(self.model), check=False)
        for connections, _ in self._cases():
            case = self._case(connections)
            with _reason(context, case, self.system.name):
                theirs, floors = [], []
                for _round in range(context.rounds):
                    self.deadline.check()
                    floors.append(floor.load(base, connections, context.seconds, context.load_core))
                    theirs.append(self._load(connections))
                if context.report.find(case, FLOOR) is None:
                    context.row(row(case, FLOOR, floors))
                self._row(row(case, self.system.name, theirs, rate_ratio(theirs, floors)))

    def against_limit(self) -> None:
        """Closed loop, all loads between two looks at the limit, which they are shares of."""
        cases = self._cases()
        if not cases:
            return
        found: list[tuple[str, int, list[Load]]] = []

        def measure() -> None:
            for connections, batch in cases:
                case = self._case(connections)
                with _reason(self.context, case, self.system.name):
                    found.append((case, batch, [self._load(connections) for _ in range(self.context.rounds)]))

        batches = [batch for _, batch in cases]
        _, limits = self.context.between_limits(self.model, batches, measure, tries=1)
        for case, batch, loads in found:
            made = row(case, self.system.name, loads)
            assert made.requests_per_s is not None
            self._row(dataclasses.replace(made, to_limit=made.requests_per_s / limits.rows_per_s(batch)))

    def open_loop(self) -> None:
        """Poisson arrivals at shares of what the closed loop reached, as far as the generator is on time."""
        case = self._case(PEER_CONNECTIONS[self.model.name][-1][0])
        closed = self.context.report.find(case, self.system.name)
        if closed is None or closed.requests_per_s is None:
            return
        for share in PEER_SHARES:
            rate = share * closed.requests_per_s
            limit = self.context.open_loop_rate
            note = (
                "open loop" if rate <= limit else f"open loop; at {limit:,.0f}/s, where the generator is still on time"
            )
            self._arrivals(f"{self.model.name}/open {share:.0%}".replace("%", " %"), min(rate, limit), note)
            if rate > limit and share >= TABLE_SHARE:
                break  # the next share would be the same load again

    def _arrivals(self, case: str, rate: float, note: str) -> None:
        count = min(MOST_REQUESTS, max(100, int(rate * self.context.seconds)))
        moments = ideal.poisson(rate, count, seed=1)
        with _reason(self.context, case, self.system.name):
            self.deadline.check()
            arrived = arrivals.run(self.context, self.server, self.system.protocol, self.model, moments)
            self._row(arrived.row(case, self.system.name, note))

    def _cases(self) -> list[tuple[int, int]]:
        """Connections with the batch of their limit, less what an earlier case of this run has measured."""
        known = self.context.report.find
        return [
            (connections, batch)
            for connections, batch in PEER_CONNECTIONS[self.model.name]
            if known(self._case(connections), self.system.name) is None
        ]

    def _case(self, connections: int) -> str:
        return f"{self.model.name}/c{connections}"

    def _load(self, connections: int) -> Load:
        self.deadline.check()
        return self.server.load(self.target, connections, self.context.seconds, self.context.load_core)

    def _row(self, made: Row) -> None:
        """Adds the line, with the processes that the system shares its core between."""
        processes = len(self.server.usage())
        parts = [made.note, f"{processes} processes" if processes > 1 else ""]
        self.context.row(dataclasses.replace(made, note="; ".join(part for part in parts if part)))
