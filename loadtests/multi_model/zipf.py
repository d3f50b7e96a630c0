"""Many more models than memory: a closed loop over 5,000 of them, its memory, failures, hit ratio, and what misses cost hits."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from loadtests.bench import proc
from loadtests.bench.protocols import WrongAnswer
from loadtests.bench.servers import Server
from loadtests.bench.stats import percentile
from loadtests.control.context import split
from loadtests.multi_model import traces
from loadtests.multi_model.calling import Answered, ClosedLoop, Lane
from loadtests.multi_model.context import Context, debug, events, is_right, metric, request
from loadtests.multi_model.shelf import target
from loadtests.multi_model.simulation import simulate
from loadtests.multi_model.traces import Trace
from serving.runtime import eviction

EXPONENT: Final = 1.1
CONNECTIONS: Final = 32
HOT: Final = 64
"""The most popular models, which stay in memory: what is said of hits is said of theirs."""

ALONE_S: Final = 5.0
"""How long they are asked for without any others, before and after."""

HITS, MISSES = ("sagemaker_model_cache_hits_total", "sagemaker_model_cache_misses_total")


class NoHits(RuntimeError):
    """Nothing can be said of hits beside misses."""


@dataclass
class _Memory:
    """What the worker takes, sampled; bytes over what it took when it was idle."""

    pid: int
    idle: int
    samples: list[tuple[float, int]] = field(default_factory=list)

    def tick(self, seconds: float) -> None:
        """Implements the loop's tick."""
        found = proc.usage(self.pid)
        if found is not None:
            self.samples.append((seconds, found.rss_bytes - self.idle))


def run(context: Context, policy: str) -> None:
    """`policy`: one of those that `model_eviction` may name, or `default`."""
    amounts, case = context.amounts, f"zipf/{policy}"
    context.shelf.fill_wide(amounts.models)
    settings: dict[str, Any] = {} if policy == "default" else {"model_eviction": policy}
    keys = traces.zipf(EXPONENT, amounts.models, amounts.requests, np.random.default_rng(11))
    requests = [request(number) for number in range(amounts.models)]
    hot = min(HOT, amounts.models // 10)
    with context.many(**settings) as server:
        _supervisor, workers = split(server)
        memory = _Memory(workers[0].pid, workers[0].rss_bytes)
        _asked(server, requests, list(range(hot)))
        alone = [_alone(context, server, requests, keys[keys < hot])]
        before = metric(server.port, HITS), metric(server.port, MISSES)
        answers = _asked(server, requests, keys.tolist(), memory)
        hits, misses = (metric(server.port, name) - was for name, was in zip((HITS, MISSES), before, strict=True))
        said = debug(server.port)
        _note_loads(context, case, server)
        alone.append(_alone(context, server, requests, keys[keys < hot]))
    context.figure(f"{case}: failed requests", sum(not found.right for found in answers))
    _judge_memory(context, case, memory, answers[amounts.warming_requests].finished)
    _judge_hits(context, case, said, keys, hits / (hits + misses))
    kept = _stayed(said, answers[amounts.warming_requests].sent, answers[-1].finished, hot)
    during = [found.seconds for found in answers[amounts.warming_requests :] if found.key in kept]
    context.times(case, f"hits of {len(kept)} models, nothing else asked, before", alone[0])
    context.times(case, f"hits of {len(kept)} models, nothing else asked, after", alone[1])
    context.times(case, f"hits of {len(kept)} models, while misses load", during)
    everyone = [found.seconds for found in answers]
    took = max(found.finished for found in answers)
    context.times(case, "all requests", everyone, f"{len(answers) / took:,.0f} requests/s, {misses:,.0f} misses")
    p99 = float(np.mean([percentile(seconds, 0.99) for seconds in alone]))
    context.figure(f"{case}: p99 of hits while misses load, to p99 without", percentile(during, 0.99) / p99)


def _asked(
    server: Server, requests: Sequence[bytes], keys: Sequence[int], memory: _Memory | None = None, seconds: float = 0.0
) -> list[Answered]:
    """Asks for these in their order; for at most so long, where that is given. Raises `WrongAnswer`."""
    lane = Lane((), CONNECTIONS, is_right)
    source = ((key, requests[key]) for key in keys)
    lane.source = _until(lane, source, seconds) if seconds else source
    ClosedLoop(server.port, [lane], memory.tick if memory is not None else None).run()
    if lane.wrong and memory is None:
        raise WrongAnswer(f"{len(lane.wrong)} or more requests failed, such as: {lane.wrong[0]}")
    return lane.answers


def _until(lane: Lane, source: Iterator[tuple[int, bytes]], seconds: float) -> Iterator[tuple[int, bytes]]:
    for one in source:
        if lane.answers and lane.answers[-1].finished > seconds:
            return
        yield one


def _alone(context: Context, server: Server, requests: Sequence[bytes], keys: NDArray[np.int32]) -> list[float]:
    """Seconds of hits, the popular models as often as in the trace, again and again."""
    seconds = min(ALONE_S, 2 * context.seconds)
    rounds = 1 + int(seconds * 20_000) // max(1, len(keys))
    several = np.tile(keys, rounds).tolist()
    found = _asked(server, requests, several, seconds=seconds)
    return [one.seconds for one in found if one.sent > seconds / 5]


def _stayed(said: dict[str, object], began: float, ended: float, hot: int) -> frozenset[int]:
    """The popular models that have been in memory since that moment of the loop, which has just ended. Raises `NoHits`."""
    found = said["targets"]
    assert isinstance(found, list)
    since = {one["target"]: one["for_s"] for one in found if one["state"] == "READY"}
    kept = frozenset(number for number in range(hot) if since.get(target(number), 0.0) > ended - began)
    if not kept:
        raise NoHits(f"none of the {hot} most popular models stayed in memory: there are no hits to speak of")
    return kept


def _note_loads(context: Context, case: str, server: Server) -> None:
    loaded = events(server.port, "loaded")
    for what, name in (("locating_s", "locating"), ("seconds", "loading"), ("waited_s", "the first caller's wait")):
        context.times(case, f"in the worker, the last loads: {name}", [event[what] for event in loaded])


def _judge_memory(context: Context, case: str, memory: _Memory, warm_at: float) -> None:
    budget = context.amounts.budget
    taken = [bytes_ for _moment, bytes_ in memory.samples]
    full = [bytes_ for moment, bytes_ in memory.samples if moment >= warm_at]
    context.figure(f"{case}: idle worker, MB", memory.idle / 1e6)
    context.figure(f"{case}: largest RSS over the idle worker, to the budget", max(taken) / budget)
    context.figure(f"{case}: RSS over the idle worker once full, to the budget", percentile(full, 0.5) / budget)


def _judge_hits(
    context: Context, case: str, said: dict[str, object], keys: NDArray[np.int32], hit_ratio: float
) -> None:
    """Against a simulation in which each model takes what the server says that it takes on average."""
    found = said["targets"]
    assert isinstance(found, list)
    each = int(np.mean([one["bytes"] for one in found if one["state"] == "READY"]))
    models = context.amounts.models
    sizes, seconds = np.full(models, each, np.int64), np.full(models, traces.SECONDS)
    trace = Trace(case, "as sent", keys, sizes, seconds, context.amounts.budget)
    ideal = simulate(eviction.policy(str(said["eviction"])), trace).hit_ratio
    context.figure(f"{case}: bytes of a model in memory, by the server", each)
    context.figure(f"{case}: hit ratio of {said['eviction']}", hit_ratio)
    context.figure(f"{case}: hit ratio of {said['eviction']}, simulated", ideal)
    context.figure(f"{case}: hit ratio, to the same policy simulated", hit_ratio / ideal)
