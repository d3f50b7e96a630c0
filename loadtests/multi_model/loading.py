"""One cold target at a time, from disk and from the store, in turns with a plain script that does the same without a server."""

from __future__ import annotations

import functools
import tempfile
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from pathlib import Path

from loadtests.bench.protocols import WrongAnswer
from loadtests.bench.servers import Server
from loadtests.bench.stats import Interval, percentile, ratio
from loadtests.multi_model import script, wide
from loadtests.multi_model.calling import Caller
from loadtests.multi_model.cases import GETTERS
from loadtests.multi_model.context import Context, debug, is_right, request, unload
from loadtests.multi_model.script import Script
from loadtests.multi_model.shelf import BUCKET, WIDE, key, wide_folder

GROUP = 10
HITS = 3
FRESH_S = 3600.0
"""So that no answer waits for the store to be asked whether a copy is up to date."""


def disk_hits(context: Context, megabytes: int) -> None:
    """Each target is unloaded, asked for, and asked again; the script makes a session of the same file before or after."""
    warming, count, case = context.amounts.warming, context.amounts.disk_hits, f"disk-hit/{megabytes}MB"
    models = (warming + count) // megabytes + 1
    context.shelf.fill_wide(models, megabytes)
    cold, warm, alone = list[float](), list[float](), list[float]()
    with (
        context.many(wide_folder(megabytes), model_refresh_s=FRESH_S) as server,
        Caller(server.port) as caller,
        _script(context) as plain,
        tempfile.TemporaryDirectory(prefix="bench-files-") as folder,
    ):
        for number in range(models):
            _asked(caller, number)
            unload(server.port, number)
        file = Path(folder) / wide.FILE
        for turn in range(warming + count):
            number = turn % models
            file.write_bytes(wide.content(number, megabytes))
            found, hit, took = _around(turn, functools.partial(_disk_hit, server, caller, number), plain, str(file))
            if turn >= warming:
                cold.append(found)
                warm.append(hit)
                alone.append(took)
        _breakdown(context, case, server, count)
    context.times(case, "a target on disk", cold)
    context.times(case, "a hit", warm)
    context.times(case, "session creation in a script", alone)
    less = [found - hit for found, hit in zip(cold, warm, strict=True)]
    context.figure(f"{case}: a disk hit less a hit, to session creation", of_medians(less, alone))


def misses(context: Context) -> None:
    """Each target is asked for once; the script takes as many others, with either client of the store."""
    warming, count = context.amounts.warming, context.amounts.misses
    several = warming + count
    context.shelf.fill_wide((1 + len(GETTERS)) * several)
    took: dict[str, list[float]] = {"server": [], **{getter: [] for getter in GETTERS}}
    parts: dict[str, list[script.Parts]] = {getter: [] for getter in GETTERS}
    with context.many() as server, Caller(server.port) as caller, _script(context) as plain:
        for turn in range(several):
            variants = list(took) if turn % 2 == 0 else list(took)[::-1]
            for variant in variants:
                number = turn + several * list(took).index(variant)
                if variant == "server":
                    seconds = _asked(caller, number)
                else:
                    found = plain.time(variant, key(WIDE, number))
                    seconds = sum(found.values())
                    parts[variant] += [found] if turn >= warming else []
                if turn >= warming:
                    took[variant].append(seconds)
        _breakdown(context, "miss", server, count)
    context.times("miss", "a target in S3 alone", took["server"])
    for getter in GETTERS:
        medians = {name: percentile([found[name] for found in parts[getter]], 0.5) * 1e3 for name in parts[getter][0]}
        note = ", ".join(f"{name} {value:.2f}" for name, value in medians.items())
        context.times("miss", f"a script with {getter}", took[getter], note)
    best = min(GETTERS, key=lambda getter: percentile(took[getter], 0.5))
    context.report.notes.append(f"miss: the script's quicker client of the store is {best}")
    context.figure("miss: a miss, to a script", of_medians(took["server"], took[best]))


def of_medians(ours: Sequence[float], theirs: Sequence[float]) -> Interval:
    """The ratio of what was measured in turns, group by group of medians, so that a pause of the machine decides nothing."""
    size = GROUP if len(ours) >= 2 * GROUP else 1
    starts = range(0, len(ours) - len(ours) % size, size)
    medians = [
        [percentile(values[start : start + size], 0.5) for start in starts] for values in (list(ours), list(theirs))
    ]
    return ratio(medians[0], medians[1])


def _script(context: Context) -> AbstractContextManager[Script]:
    return script.running(BUCKET, context.shelf.environment, context.server_core)


def _around(turn: int, ask: Callable[[], tuple[float, float]], plain: Script, file: str) -> tuple[float, float, float]:
    """Server and script, every other time the other way round."""
    if turn % 2:
        took = plain.time("session", file)["session"]
        return *ask(), took
    return *ask(), plain.time("session", file)["session"]


def _disk_hit(server: Server, caller: Caller, number: int) -> tuple[float, float]:
    """Seconds of the disk hit and of the hits after it; the target is out of memory before and after."""
    cold = _asked(caller, number)
    warm = percentile([_asked(caller, number) for _ in range(HITS)], 0.5)
    unload(server.port, number)
    return cold, warm


def _asked(caller: Caller, number: int) -> float:
    """Seconds to a model's right answer. Raises `WrongAnswer`."""
    status, body, seconds = caller.ask(request(number))
    if not is_right(number, status, body):
        raise WrongAnswer(f"model {number} was answered {status} {body[:300]!r}")
    return seconds


def _breakdown(context: Context, case: str, server: Server, count: int) -> None:
    """What the worker noted of the loads."""
    loaded = [event for event in debug(server.port)["events"] if event["what"] == "loaded"][:count]
    for what, name in (("locating_s", "locating"), ("seconds", "loading"), ("waited_s", "the caller's wait")):
        context.times(case, f"in the worker: {name}", [event[what] for event in loaded])
