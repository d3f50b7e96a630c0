"""What every case of one benchmark run shares: files, durations, cores, and the report it adds to."""

from __future__ import annotations

import sys
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from pathlib import Path
from typing import TypeVar

from loadtests.bench import limits, models, servers
from loadtests.bench.compare import interleave
from loadtests.bench.limits import MAX_TRIES, Limits
from loadtests.bench.load import Load, Target
from loadtests.bench.models import BenchModel, Sample
from loadtests.bench.report import Figure, Report
from loadtests.bench.rows import Row
from loadtests.bench.servers import Server
from loadtests.bench.stats import Interval

Result = TypeVar("Result")


@dataclass
class Context:
    """One run of the benchmark. Times in seconds; `rounds` is the number of ABBA rounds (two loads a variant each)."""

    folder: Path
    seconds: float
    rounds: int
    quick: bool
    executable: str | None
    report: Report
    server_core: int = 0
    load_core: int = 1
    open_loop_rate: float = 0.0
    """Requests per second up to which the open-loop generator is on time here; 0 while it was not measured."""
    _samples: dict[str, Sample] = field(default_factory=dict)

    def path(self, model: BenchModel) -> Path:
        """The model's file."""
        return models.write(model, self.folder / "models").resolve()

    def sample(self, model: BenchModel) -> Sample:
        """One input of the model with its right answer."""
        if model.name not in self._samples:
            self._samples[model.name] = models.samples(model, self.path(model), 1)[0]
        return self._samples[model.name]

    def ours(self, *served: BenchModel, workers: int = 1, cores: str | None = None) -> AbstractContextManager[Server]:
        """This server with those models, on the server core unless told otherwise."""
        where = str(self.server_core) if cores is None else cores
        return servers.ours([self.path(model) for model in served], workers, where, self.executable)

    def limits(self, model: BenchModel, batches: Sequence[int]) -> Limits:
        """The no-server limit of the model on the server core, now."""
        seconds = 0.3 if self.quick else 1.0
        return limits.measure(self.path(model), model.name, batches, seconds, self.server_core)

    def load(self, server: Server, target: Target, connections: int) -> Callable[[], Load]:
        """A measured run of the given target, to be called."""
        return lambda: server.load(target, connections, self.seconds, self.load_core)

    def between_limits(
        self, model: BenchModel, batches: Sequence[int], run: Callable[[], Result], tries: int = MAX_TRIES
    ) -> tuple[Result, Limits]:
        """The result of `run` and the limit around it; repeated and counted when the limit moved meanwhile."""
        most = 1 if self.quick else tries
        result, steady = limits.between_limits(lambda: self.limits(model, batches), run, most)
        self.report.runs += steady.tries
        self.report.repeated += steady.tries - 1
        self.report.unsteady += not steady.held
        return result, steady.limits

    def interleaved(
        self, model: BenchModel, batches: Sequence[int], variants: Mapping[str, Callable[[], Load]]
    ) -> dict[str, list[Load]]:
        """All rounds of the variants, each round between two looks at the limit."""
        loads: dict[str, list[Load]] = {name: [] for name in variants}
        for _ in range(self.rounds):
            found, _limits = self.between_limits(model, batches, lambda: interleave(variants, 1))
            for name, several in found.items():
                loads[name].extend(several)
        return loads

    def row(self, row: Row) -> None:
        """Adds a line to the table, and says so at once: a run takes long."""
        self.report.rows.append(row)
        say(row.line())

    def figure(self, name: str, value: float | Interval, worst: float | None = None) -> None:
        """Records a figure; the end of an interval that decides is chosen by the target's direction."""
        if isinstance(value, Interval):
            found = Figure(name, value.value, value.low, value.high)
        else:
            end = value if worst is None else worst
            found = Figure(name, value, min(value, end), max(value, end))
        self.report.figures.append(found)
        say(f"  {found.name}: {found.text()}")


def say(text: str) -> None:
    """Progress goes to stderr, results to stdout."""
    print(text, file=sys.stderr, flush=True)
