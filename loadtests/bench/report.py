"""What a run found: rows, figures against their targets, machine and versions; as text, Markdown and JSON."""

from __future__ import annotations

import dataclasses
import datetime
import importlib.metadata
import json
import os
import platform
import subprocess
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from loadtests.bench.cases import TARGETS, Target
from loadtests.bench.load import Load
from loadtests.bench.stats import Interval, percentile

PACKAGES = ("uvicorn", "uvloop", "httptools", "onnxruntime", "numpy", "orjson", "msgspec", "starlette")
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


@dataclass(frozen=True, slots=True)
class Figure:
    """A measured figure with the ends of its interval (both the value itself where it was measured once)."""

    name: str
    value: float
    low: float
    high: float

    @property
    def target(self) -> Target | None:
        """What the figure has to reach, if anything."""
        return TARGETS.get(self.name)

    @property
    def holds(self) -> bool | None:
        """Whether the worse end of the interval reaches the target; None without one."""
        if self.target is None:
            return None
        return self.low >= self.target.bound if self.target.at_least else self.high <= self.target.bound

    def text(self) -> str:
        """Value, interval, target and verdict."""
        found = f"{self.value:.4g}" if self.low == self.high else f"{self.value:.4g} [{self.low:.4g}, {self.high:.4g}]"
        if self.target is None:
            return found
        return f"{found}, target {self.target}: {'holds' if self.holds else 'MISSED'}"


@dataclass
class Report:
    """Everything that one run found. `runs` counts the runs between limits, `repeated` those done again."""

    machine: Mapping[str, str]
    rows: list[Row] = field(default_factory=list)
    figures: list[Figure] = field(default_factory=list)
    limits: dict[str, dict[int, float]] = field(default_factory=dict)
    absent: dict[str, str] = field(default_factory=dict)
    runs: int = 0
    repeated: int = 0
    unsteady: int = 0

    @property
    def missed(self) -> list[Figure]:
        """The figures that did not reach their target."""
        return [figure for figure in self.figures if figure.holds is False]

    def markdown(self) -> str:
        """The report as a Markdown section."""
        parts = ["## Benchmark", "", *(f"- {name}: {value}" for name, value in self.machine.items())]
        parts.append(
            f"- runs between two looks at the limit: {self.runs}; repeated because it moved by more than 5 %: "
            f"{self.repeated}; still unsteady at the end: {self.unsteady}"
        )
        parts += [f"- left out: {name}: {why}" for name, why in self.absent.items()]
        for model, rates in self.limits.items():
            parts += ["", f"No-server limit, `session.run` of {model}, one thread, rows/s:", ""]
            parts += _table([f"b{batch}" for batch in rates], [[f"{rate:,.0f}" for rate in rates.values()]])
        if self.rows:
            parts += ["", "Medians of all runs; ratio to the floor with its 95 % interval:", ""]
            parts += _table(COLUMNS, [found.cells() for found in self.rows])
        if self.figures:
            parts += ["", "Figures against their targets (decided by the worse end of the interval):", ""]
            head = ("figure", "value", "interval", "target", "verdict")
            parts += _table(head, [_verdict(item) for item in self.figures])
        return "\n".join(parts) + "\n"

    def json(self) -> str:
        """The report for programs."""
        figures = [
            {**dataclasses.asdict(item), "target": str(item.target or ""), "holds": item.holds} for item in self.figures
        ]
        whole = {
            "machine": dict(self.machine),
            "limits": self.limits,
            "rows": [dataclasses.asdict(found) for found in self.rows],
            "figures": figures,
            "absent": self.absent,
            "runs": self.runs,
            "repeated": self.repeated,
            "unsteady": self.unsteady,
        }
        return json.dumps(whole, indent=2) + "\n"


def describe_machine() -> dict[str, str]:
    """Date, machine and versions, as a reader needs them to judge the figures."""
    model = platform.processor() or platform.machine()
    for line in Path("/proc/cpuinfo").read_text().splitlines():
        if line.startswith("model name"):
            model = line.partition(":")[2].strip()
            break
    wrk = subprocess.run(["wrk", "-v"], capture_output=True, text=True, check=False).stdout.splitlines()
    return {
        "date": datetime.datetime.now(datetime.UTC).strftime("%Y-%m-%d %H:%M UTC"),
        "machine": f"{model}, {os.cpu_count()} cores, {platform.system()} {platform.release()}",
        "versions": ", ".join(
            [f"Python {platform.python_version()}"]
            + [f"{name} {_version(name)}" for name in PACKAGES]
            + [wrk[0].partition(" [")[0] if wrk else "no wrk"]
        ),
        "how": "server on one core, wrk on the other, loopback; every answer of a burst before each run is compared",
    }


def _version(package: str) -> str:
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return "not installed"


def _verdict(figure: Figure) -> list[str]:
    interval = "" if figure.low == figure.high else f"{figure.low:.4g} .. {figure.high:.4g}"
    verdict = {True: "holds", False: "**missed**", None: ""}[figure.holds]
    return [figure.name, f"{figure.value:.4g}", interval, str(figure.target or ""), verdict]


def _number(value: float | None, form: str) -> str:
    return "" if value is None else format(value, form)


def _table(head: Sequence[str], lines: Sequence[Sequence[str]]) -> list[str]:
    rule = "|" + "--|" * len(head)
    return [_line(head), rule, *(_line(cells) for cells in lines)]


def _line(cells: Sequence[str]) -> str:
    return f"| {' | '.join(cells)} |"
