"""What a benchmark of deployed endpoints found: times of calls, figures against their targets, machine and versions; as text, Markdown and JSON."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from loadtests.bench.cases import Target
from loadtests.bench.stats import Interval, percentile

CALL_COLUMNS = ("case", "what", "count", "p50 ms", "p99 ms", "longest ms", "note")
FIGURE_COLUMNS = ("figure", "value", "interval", "target", "verdict")


@dataclass(frozen=True, slots=True)
class Times:
    """How long one kind of call took, in ms."""

    case: str
    what: str
    count: int
    p50_ms: float
    p99_ms: float
    longest_ms: float | None
    note: str = ""

    @classmethod
    def of(cls, case: str, what: str, seconds: Sequence[float], note: str = "") -> Times:
        """From the single times, in seconds."""
        p50, p99 = (percentile(seconds, share) * 1e3 for share in (0.5, 0.99))
        return cls(case, what, len(seconds), p50, p99, max(seconds) * 1e3, note)

    def cells(self) -> list[str]:
        """The line as text, in the order of `CALL_COLUMNS`."""
        numbers = [_brief(self.p50_ms), _brief(self.p99_ms), "" if self.longest_ms is None else _brief(self.longest_ms)]
        return [self.case, self.what, f"{self.count:,}", *numbers, " ".join(self.note.split()).replace("|", "/")]


@dataclass(frozen=True, slots=True)
class Figure:
    """A measured figure with the ends of its interval (both the value itself where it has none).

    `target` is what it has to reach, if anything.
    """

    name: str
    value: float
    low: float
    high: float
    target: Target | None = None

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


@dataclass
class Report:
    """Everything that one run found; `targets` by the figure's name."""

    title: str
    targets: Mapping[str, Target]
    machine: Mapping[str, str] = field(default_factory=dict)
    times: list[Times] = field(default_factory=list)
    figures: list[Figure] = field(default_factory=list)
    failed: dict[str, str] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)

    @property
    def missed(self) -> list[Figure]:
        """The figures that did not reach their target."""
        return [figure for figure in self.figures if figure.holds is False]

    def figure(self, name: str, value: float | Interval) -> Figure:
        """Records a figure."""
        ends = value if isinstance(value, Interval) else Interval(value, value, value)
        found = Figure(name, ends.value, ends.low, ends.high, self.targets.get(name))
        self.figures.append(found)
        return found

    def markdown(self) -> str:
        """The report as a Markdown section."""
        parts = [f"## {self.title}", "", *(f"- {name}: {value}" for name, value in self.machine.items())]
        parts += [f"- {note}" for note in self.notes]
        parts += [f"- not measured: {case}: {why}" for case, why in self.failed.items()]
        if self.times:
            parts += ["", *_table(CALL_COLUMNS, [found.cells() for found in self.times])]
        if self.figures:
            parts += ["", "Figures against their targets (decided by the worse end of the interval):", ""]
            parts += _table(FIGURE_COLUMNS, [found.cells() for found in self.figures])
        return "\n".join(parts) + "\n"

    def json(self) -> str:
        """The report for programs."""
        figures = [
            {**dataclasses.asdict(found), "target": str(found.target or ""), "holds": found.holds}
            for found in self.figures
        ]
        whole = {
            "machine": dict(self.machine),
            "times": [dataclasses.asdict(found) for found in self.times],
            "figures": figures,
            "failed": self.failed,
            "notes": self.notes,
        }
        return json.dumps(whole, indent=2) + "\n"


def _brief(milliseconds: float) -> str:
    return f"{milliseconds:.2f}" if milliseconds < 100 else f"{milliseconds:,.0f}"


def _table(head: Sequence[str], lines: Sequence[Sequence[str]]) -> list[str]:
    return [_line(head), "|" + "--|" * len(head), *(_line(cells) for cells in lines)]


def _line(cells: Sequence[str]) -> str:
    return f"| {' | '.join(cells)} |"
