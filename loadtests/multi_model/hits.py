"""The CPU of a hit: a loaded target of a multi-model endpoint and the same model alone on one, in turns on one server."""

from __future__ import annotations

import dataclasses
import functools

from loadtests.bench.compare import cpu_ratio, interleave, rate_ratio
from loadtests.bench.load import Target
from loadtests.bench.protocols import ENDPOINT
from loadtests.bench.servers import Server, post
from loadtests.bench.stats import mean
from loadtests.control.archives import Archive
from loadtests.control.context import endpoint_name, populate
from loadtests.multi_model.context import NAME, TARGET_HEADER, Context, deploy


def run(context: Context, connections: int) -> None:
    """Both endpoints are in one worker: heads differ in the endpoint's name and the header alone."""
    archive = context.archives(1)[0]
    case = f"hit/c{connections}"
    with context.server() as server:
        populate(server.port, [archive], 1)
        deploy(server.port, archive.path.parent.as_uri() + "/")
        single = server.ask(ENDPOINT, archive.model(endpoint_name(archive)), archive.sample())
        targets = {"single": single, "multi": _multi(server, archive, single)}
        loads = interleave(
            {
                label: functools.partial(server.load, target, connections, context.seconds, context.load_core)
                for label, target in targets.items()
            },
            context.rounds,
        )
    for label, found in loads.items():
        context.figure(f"{case}: {label}, CPU us a request", mean([load.cpu_us_per_request for load in found]))
        context.figure(f"{case}: {label}, p99 ms", mean([load.p99_ms for load in found]))
    context.figure(f"{case}: requests/s, to a single-model endpoint", rate_ratio(loads["multi"], loads["single"]))
    context.figure(f"{case}: CPU of a hit, to a single-model endpoint", cpu_ratio(loads["multi"], loads["single"]))


def _multi(server: Server, archive: Archive, single: Target) -> Target:
    """The same question for the target; asked once, so that it is loaded. Raises `WrongAnswer`."""
    asked = ENDPOINT.request(archive.model(NAME), archive.sample())
    asked = dataclasses.replace(asked, headers={**asked.headers, TARGET_HEADER: archive.path.name})
    _status, body = post(server.port, asked.path, asked.headers, asked.body)
    ENDPOINT.check(body, archive.sample().answer)
    return dataclasses.replace(single, request=asked)
