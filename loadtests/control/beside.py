"""fraud-mlp on one worker beside control traffic at full speed.

`apart`: the worker has the server core for itself; supervisor, control client and wrk share the load core. `together`:
supervisor and worker share the server core, as they would on a machine of one; control client and wrk the other. wrk is
the clock, so it comes before whatever shares its core: it has real-time priority where that is allowed, and the control
client is niced. `none` is what the others are held against: a program that burns the load core as the control client
does, and calls nobody; how far that is from the load alone is the harness's own share.
"""

from __future__ import annotations

import contextlib
import functools
import json
import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from time import perf_counter

from loadtests.bench.compare import interleave
from loadtests.bench.load import Load, LoadFailed
from loadtests.bench.protocols import ENDPOINT
from loadtests.bench.stats import percentile, ratio
from loadtests.control.archives import Archive
from loadtests.control.cases import TRAFFIC
from loadtests.control.context import Context, endpoint_name, pin, populate, split
from loadtests.control.traffic import BEGUN

NICE = 19
ENDS_S = 60.0
OTHERS = ("none", *TRAFFIC)


def run(context: Context, place: str, connections: int) -> None:
    """Baseline and traffic in turns on one server."""
    first, other = context.archives(2)
    with context.server() as server, _first(context):
        populate(server.port, [first], 1)
        supervisor, workers = split(server)
        if place == "apart":
            pin(supervisor.pid, context.load_core)
        assert len(workers) == 1, "one worker and nothing else"
        target = server.ask(ENDPOINT, first.model(endpoint_name(first)), first.sample())
        rates: dict[str, list[float]] = {kind: [] for kind in OTHERS}
        alone = functools.partial(server.load, target, connections, context.seconds, context.load_core)
        variants: dict[str, Callable[[], Load]] = {"alone": alone}
        for kind in OTHERS:
            variants[kind] = _beside(context, alone, server.port, kind, other, rates[kind])
        loads = interleave(variants, context.rounds)
    _judge(context, f"beside/{place}/c{connections}", loads, rates)


@contextlib.contextmanager
def _first(context: Context) -> Iterator[None]:
    """What this program starts in the block has real-time priority, as far as it is allowed."""
    try:
        os.sched_setscheduler(0, os.SCHED_FIFO, os.sched_param(os.sched_get_priority_min(os.SCHED_FIFO)))
    except PermissionError:
        context.report.notes.append("wrk had no real-time priority: what shares its core counts in its latencies")
    try:
        yield
    finally:
        os.sched_setscheduler(0, os.SCHED_OTHER, os.sched_param(0))


def _beside(
    context: Context, load: Callable[[], Load], port: int, kind: str, archive: Archive, rates: list[float]
) -> Callable[[], Load]:
    """A load beside a kind of traffic; notes the calls a second of it."""

    def measure() -> Load:
        with _traffic(context, port, kind, archive) as ended:
            began = perf_counter()
            found = load()
            rates.append(ended() / (perf_counter() - began))
        return found

    return measure


@contextlib.contextmanager
def _traffic(context: Context, port: int, kind: str, archive: Archive) -> Iterator[Callable[[], int]]:
    """The control client, already at work; what it gives ends it and tells its number of calls. Raises `LoadFailed`."""
    command = ["taskset", "-c", str(context.load_core), "chrt", "--other", "0", "nice", "-n", str(NICE)]
    command += [sys.executable, "-m", "loadtests.control.traffic", str(port), kind, archive.url]
    process = subprocess.Popen(
        command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )

    def ended() -> int:
        try:
            output, errors = process.communicate("", ENDS_S)
        except subprocess.TimeoutExpired:
            raise LoadFailed(f"the control client ({kind}) did not end within {ENDS_S:g} s") from None
        if process.returncode:
            raise LoadFailed(f"the control client ({kind}) failed: {(errors or output).strip()[-500:]}")
        count = int(json.loads(output)["calls"])
        if not count and kind in TRAFFIC:
            raise LoadFailed(f"the control client ({kind}) got no answer: the figure would mean nothing")
        return count

    try:
        assert process.stdout is not None
        if process.stdout.readline().strip() != BEGUN:
            ended()
        yield ended
    finally:
        process.kill()
        process.communicate()


def _judge(context: Context, case: str, loads: dict[str, list[Load]], rates: dict[str, list[float]]) -> None:
    alone = loads["alone"]
    for kind, several in loads.items():
        note = f"{percentile([load.requests_per_s for load in several], 0.5):,.0f} requests/s"
        if kind in TRAFFIC:
            note += f", {percentile(rates[kind], 0.5):,.0f} control calls/s"
        # wrk's own percentiles: the table has those of the middle load, the figures their ratios in pairs.
        middle = sorted(several, key=lambda load: load.p99_ms)[len(several) // 2]
        context.loads(case, f"fraud-mlp beside {kind}", middle, note)
    for kind in OTHERS:
        several = loads[kind]
        found = ratio([load.p99_ms for load in several], [load.p99_ms for load in alone])
        context.figure(f"{case}: p99 beside {kind}, to alone", found)
    for kind in TRAFFIC:
        found = ratio([load.p99_ms for load in loads[kind]], [load.p99_ms for load in loads["none"]])
        context.figure(f"{case}: p99 beside {kind}, to beside none", found)
