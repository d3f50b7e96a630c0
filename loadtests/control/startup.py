"""Start to ready and resident memory: without the control plane in use, with it, and with all endpoints to restore."""

from __future__ import annotations

import tempfile
from pathlib import Path
from time import perf_counter

from loadtests.bench.stats import mean
from loadtests.control.calls import Raw
from loadtests.control.context import Context, check, endpoint_name, split


def run(context: Context) -> None:
    """Several starts each; what is on disk is in the page cache from the first, which is not counted."""
    with tempfile.TemporaryDirectory(prefix="bench-used-") as used:
        with context.server(Path(used)) as server, Raw(server.port) as raw:
            raw.call("ListEndpoints")
        _starts(context, "a new state", None, 0)
        _starts(context, "a control database without endpoints", Path(used), 0)
    _starts(context, f"{context.sizes.endpoints} endpoints", context.populated, context.sizes.endpoints)


def _starts(context: Context, what: str, state: Path | None, endpoints: int) -> None:
    ready, first_call, supervisors, workers = [], [], [], []
    for turn in range(context.sizes.warming_starts + context.sizes.starts):
        with context.server(state) as server, Raw(server.port) as raw:
            for archive in context.archives(endpoints)[-3:]:
                check(server, archive, endpoint_name(archive))
            untouched, _ = split(server)
            began = perf_counter()
            raw.call("ListEndpoints")
            took = perf_counter() - began
            supervisor, others = split(server)
        if turn >= context.sizes.warming_starts:
            ready.append(server.started_s)
            first_call.append(took)
            supervisors.append((untouched.rss_bytes / 1e6, supervisor.rss_bytes / 1e6))
            workers.append(max(other.rss_bytes for other in others) / 1e6)
    context.figure(f"startup: {what}: start to ready, s", mean(ready))
    context.figure(f"startup: {what}: first control call, s", mean(first_call))
    context.figure(f"startup: {what}: supervisor RSS before it, MB", mean([before for before, _ in supervisors]))
    context.figure(f"startup: {what}: supervisor RSS after it, MB", mean([after for _, after in supervisors]))
    context.figure(f"startup: {what}: worker RSS, MB", mean(workers))
