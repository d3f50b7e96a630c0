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

import msgspec

from loadtests.bench.cases import TARGETS, Target
from loadtests.bench.rows import COLUMNS, Row
from loadtests.bench.table import EXPLAINED, HEAD, side_by_side

PACKAGES = ("uvicorn", "uvloop", "httptools", "onnxruntime", "numpy", "orjson", "msgspec", "starlette")
FIGURE_COLUMNS = ("figure", "value", "interval", "target", "verdict")


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

    def cells(self) -> list[str]:
        """The figure as text, in the order of `FIGURE_COLUMNS`."""
        interval = "" if self.low == self.high else f"{self.low:.4g} .. {self.high:.4g}"
        verdict = {True: "holds", False: "**missed**", None: ""}[self.holds]
        return [self.name, f"{self.value:.4g}", interval, str(self.target or ""), verdict]

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
    notes: list[str] = field(default_factory=list)
    runs: int = 0
    repeated: int = 0
    unsteady: int = 0

    @property
    def missed(self) -> list[Figure]:
        """The figures that did not reach their target."""
        return [figure for figure in self.figures if figure.holds is False]

    def find(self, case: str, system: str) -> Row | None:
        """The first line of a system in a case."""
        return next((found for found in self.rows if (found.case, found.system) == (case, system)), None)

    @classmethod
    def read(cls, text: bytes) -> Report:
        """The report that `json` wrote. Raises ValueError."""
        return msgspec.json.decode(text, type=cls)

    def markdown(self) -> str:
        """The report as a Markdown section."""
        parts = ["## Benchmark", "", *(f"- {name}: {value}" for name, value in self.machine.items())]
        parts.append(
            f"- runs between two looks at the limit: {self.runs}; repeated because it moved by more than 5 %: "
            f"{self.repeated}; still unsteady at the end: {self.unsteady}"
        )
        parts += [f"- {note}" for note in self.notes]
        parts += [f"- left out: {name}: {why}" for name, why in self.absent.items()]
        for model, rates in self.limits.items():
            parts += ["", f"No-server limit, `session.run` of {model}, one thread, rows/s:", ""]
            parts += _table([f"b{batch}" for batch in rates], [[f"{rate:,.0f}" for rate in rates.values()]])
        lines = side_by_side(self.rows)
        if lines:
            parts += ["", f"Side by side; {EXPLAINED}:", ""]
            parts += _table(HEAD, [line.cells() for line in lines])
        if self.rows:
            parts += ["", "Medians of all runs; ratio to the floor with its 95 % interval:", ""]
            parts += _table(COLUMNS, [found.cells() for found in self.rows])
        if self.figures:
            parts += ["", "Figures against their targets (decided by the worse end of the interval):", ""]
            parts += _table(FIGURE_COLUMNS, [item.cells() for item in self.figures])
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
            "notes": self.notes,
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


def _table(head: Sequence[str], lines: Sequence[Sequence[str]]) -> list[str]:
    rule = "|" + "--|" * len(head)
    return [_line(head), rule, *(_line(cells) for cells in lines)]


def _line(cells: Sequence[str]) -> str:
    return f"| {' | '.join(cells)} |"
