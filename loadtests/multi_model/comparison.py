"""Every policy on every trace, and the table of it."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from concurrent.futures import Executor
from dataclasses import dataclass
from time import perf_counter
from types import MappingProxyType
from typing import Final

from loadtests.multi_model.bounds import bound
from loadtests.multi_model.rivals import Gdsf1998, LfuDa, S3Fifo, TinyLfu
from loadtests.multi_model.simulation import Outcome, simulate
from loadtests.multi_model.traces import TRACES
from serving.runtime.eviction import POLICIES, EvictionPolicy

BOUND: Final = "offline bound"
RIVALS: Final[Mapping[str, Callable[[], EvictionPolicy[int]]]] = MappingProxyType(
    {"GDSF 1998": Gdsf1998, "LFU-DA": LfuDa, "W-TinyLFU": TinyLfu, "S3-FIFO": S3Fifo}
)
ALL: Final[Mapping[str, Callable[[], EvictionPolicy[int]]]] = MappingProxyType({**POLICIES, **RIVALS})
"""The server's own policies by the names that settings have for them, then the others."""


@dataclass(frozen=True, slots=True)
class Cell:
    """One policy, or the bound, on one trace under `share` of its budget; `seconds` is what the simulation took."""

    policy: str
    trace: str
    share: float
    outcome: Outcome
    seconds: float


@dataclass(frozen=True, slots=True)
class Measure:
    """What policies are compared by: its title, its value, how that is written, and which value is best."""

    title: str
    of: Callable[[Outcome], float]
    text: Callable[[float], str]
    best: Callable[[Iterable[float]], float] = max


MEASURES: Final = (
    Measure("Hit ratio, %", lambda outcome: 100 * outcome.hit_ratio, lambda value: f"{value:.1f}"),
    Measure("Byte hit ratio, %", lambda outcome: 100 * outcome.byte_hit_ratio, lambda value: f"{value:.1f}"),
    Measure("Seconds of loading", lambda outcome: outcome.loading_s, lambda value: f"{value:,.0f}", min),
)


def cell(policy: str, trace: str, requests: int, share: float = 1.0) -> Cell:
    """Simulates one."""
    made = TRACES[trace](requests)
    budget = int(made.budget * share)
    began = perf_counter()
    outcome = bound(made, budget) if policy == BOUND else simulate(ALL[policy](), made, budget)
    return Cell(policy, trace, share, outcome, perf_counter() - began)


def compare(
    executor: Executor, requests: int, traces: Sequence[str] = tuple(TRACES), shares: Sequence[float] = (1.0,)
) -> list[Cell]:
    """Simulates all of them, in any order, and gives them in this: traces, shares of the budget, policies."""
    waiting = [
        executor.submit(cell, policy, trace, requests, share)
        for trace in traces
        for share in shares
        for policy in (*ALL, BOUND)
    ]
    return [future.result() for future in waiting]


def markdown(cells: Sequence[Cell]) -> str:
    """A table for each measure, the best policy of each trace in bold; then what the traces are."""
    found = {(cell.policy, cell.trace): cell for cell in cells}
    traces = list(dict.fromkeys(cell.trace for cell in cells))
    requests = cells[0].outcome.requests
    lines = [f"{requests:,} requests in each trace; 5,000 models of 1 MB under 1 GB where nothing else is said.", ""]
    for measure in MEASURES:
        lines += [f"| {measure.title} | {' | '.join(traces)} |", "|--|" + "--:|" * len(traces)]
        best = {
            trace: measure.text(measure.best(measure.of(found[policy, trace].outcome) for policy in ALL))
            for trace in traces
        }
        for policy in (*ALL, BOUND):
            texts = [measure.text(measure.of(found[policy, trace].outcome)) for trace in traces]
            marked = [
                f"**{text}**" if policy != BOUND and text == best[trace] else text
                for text, trace in zip(texts, traces, strict=True)
            ]
            lines.append(f"| {policy} | {' | '.join(marked)} |")
        lines.append("")
    lines += [f"- `{trace}`: {TRACES[trace](100).about}" for trace in traces]
    return "\n".join([*lines, ""])
