"""The no-server limit: rows per second of `session.run` alone, one thread, on the server's core.

Run as a program of its own (`python -m loadtests.bench.limits FILE MODEL`), because the core must be the server's.
"""

from __future__ import annotations

import json
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

from loadtests.bench.models import MODELS, session

BATCHES = (1, 8, 16, 32, 128)
MAX_DRIFT = 0.05
MAX_TRIES = 3

Result = TypeVar("Result")


@dataclass(frozen=True, slots=True)
class Limits:
    """Seconds of one run by the rows in it."""

    seconds: dict[int, float]

    def rows_per_s(self, batch: int) -> float:
        """Rows answered per second when every run holds `batch` rows."""
        return batch / self.seconds[batch]

    def drift(self, later: Limits) -> float:
        """The largest relative difference to a later measurement of the same batches."""
        return max(abs(later.seconds[batch] / self.seconds[batch] - 1) for batch in self.seconds)

    def mean(self, later: Limits) -> Limits:
        """The average of two measurements."""
        return Limits({batch: (self.seconds[batch] + later.seconds[batch]) / 2 for batch in self.seconds})


@dataclass(frozen=True, slots=True)
class Steady:
    """How a measurement between two looks at the limit went: `tries` counts the repeated ones too."""

    limits: Limits
    drift: float
    tries: int

    @property
    def held(self) -> bool:
        """Whether the machine was the same before and after."""
        return self.drift <= MAX_DRIFT


def between_limits(
    measure: Callable[[], Limits], run: Callable[[], Result], most_tries: int = MAX_TRIES
) -> tuple[Result, Steady]:
    """Runs between two measurements of the limit; repeats, up to `most_tries` in all, while these differ too much."""
    before = measure()
    for tries in range(1, most_tries + 1):
        result = run()
        after = measure()
        steady = Steady(before.mean(after), before.drift(after), tries)
        if steady.held:
            break
        before = after
    return result, steady


def measure(path: Path, model: str, batches: Sequence[int] = BATCHES, seconds: float = 1.0, core: int = 0) -> Limits:
    """The limit of the ONNX file on one pinned core, `seconds` per batch size."""
    command = ["taskset", "-c", str(core), sys.executable, "-m", "loadtests.bench.limits", str(path), model]
    command += [str(seconds), *(str(batch) for batch in batches)]
    limit_s = 60 + 10 * seconds * len(batches)
    output = subprocess.run(command, capture_output=True, text=True, check=True, timeout=limit_s)
    return Limits({int(batch): value for batch, value in json.loads(output.stdout).items()})


def _time(path: Path, model: str, seconds: float, batches: Sequence[int]) -> dict[int, float]:
    """Seconds per run of each batch size.

    The sizes take turns in short slices, so that what slows the machine for a moment does not fall on one of them.
    """
    runner = session(path)
    known = MODELS[model]
    inputs: dict[int, dict[str, Any]] = {batch: {known.input_name: known.rows(batch)} for batch in batches}
    runs = dict.fromkeys(batches, 0)
    spent = dict.fromkeys(batches, 0.0)
    for batch in batches:
        runner.run(None, inputs[batch])
    while min(spent.values()) < seconds:
        for batch in batches:
            began = now = time.perf_counter()
            while now - began < seconds / 5:
                runner.run(None, inputs[batch])
                runs[batch] += 1
                now = time.perf_counter()
            spent[batch] += now - began
    return {batch: spent[batch] / runs[batch] for batch in batches}


if __name__ == "__main__":
    print(json.dumps(_time(Path(sys.argv[1]), sys.argv[2], float(sys.argv[3]), [int(size) for size in sys.argv[4:]])))
