"""The lines of a report's table: one system in one case."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from loadtests.bench.load import Load
from loadtests.bench.stats import Interval, percentile

FLOOR = "uvicorn bare ASGI"
COLUMNS = ("case", "system", "requests/s", "p50 ms", "p99 ms", "CPU us", "to floor", "to limit", "note")


@dataclass(frozen=True, slots=True)
class Row:
    """One system in one case: the median of its runs. `note` says why a figure is missing."""

    case: str
    system: str
    requests_per_s: float | None = None
    p50_ms: float | None = None
    p99_ms: float | None = None
    cpu_us: float | None = None
    to_floor: Interval | None = None
    to_limit: float | None = None
    note: str = ""

    def cells(self) -> list[str]:
        """The row as text, in the order of `COLUMNS`."""
        numbers = [
            _number(self.requests_per_s, ",.0f"),
            _number(self.p50_ms, ".3f"),
            _number(self.p99_ms, ".3f"),
            _number(self.cpu_us, ".1f"),
            "" if self.to_floor is None else str(self.to_floor),
            _number(self.to_limit, ".3f"),
        ]
        # An error text may hold line breaks and bars; in a table it is one line, the end of which says most.
        note = " ".join(self.note.split())[-300:].replace("|", "/")
        return [self.case, self.system, *numbers, note]

    def line(self) -> str:
        """The row for the eye while the benchmark runs."""
        named = zip(COLUMNS[2:], self.cells()[2:], strict=True)
        return f"{self.case:24} {self.system:22} " + ", ".join(f"{name} {cell}" for name, cell in named if cell)


def row(
    case: str, system: str, loads: Sequence[Load], to_floor: Interval | None = None, to_limit: float | None = None
) -> Row:
    """The medians of several runs as a row."""
    return Row(
        case,
        system,
        percentile([load.requests_per_s for load in loads], 0.5),
        percentile([load.p50_ms for load in loads], 0.5),
        percentile([load.p99_ms for load in loads], 0.5),
        percentile([load.cpu_us_per_request for load in loads], 0.5),
        to_floor,
        to_limit,
    )


def _number(value: float | None, form: str) -> str:
    return "" if value is None else format(value, form)
