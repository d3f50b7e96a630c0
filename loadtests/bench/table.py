"""All systems side by side: one line each, with what a reader compares them by."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from loadtests.bench.cases import PEER_CONNECTIONS
from loadtests.bench.rows import FLOOR, Row

TABLE_SHARE = 0.5
"""The share of the closed-loop rate whose open loop is a column."""
OPEN_SHARE = f"open {TABLE_SHARE:.0%}".replace("%", " %")
NOTE_LENGTH = 80
HEAD = (
    "system",
    *(f"{model} c={connections}" for model, cases in PEER_CONNECTIONS.items() for connections, _ in cases),
    *(f"{model} {OPEN_SHARE}" for model in PEER_CONNECTIONS),
)
EXPLAINED = (
    "requests/s (p50 / p99 ms) with c connections; in the last columns open-loop arrivals at half of what the system "
    "reached with the most connections"
)


@dataclass(frozen=True, slots=True)
class Line:
    """One system's rows in the order of `HEAD[1:]`; None where it was not tried, and `reason` where it could not be."""

    system: str
    rows: tuple[Row | None, ...]
    reason: str

    def cells(self) -> list[str]:
        """The line as text."""
        found = [_cell(row) for row in self.rows]
        if not any(found):
            found[0] = self.reason
        return [self.system, *found]


def side_by_side(rows: Sequence[Row]) -> list[Line]:
    """Every system that was measured or tried on one of the models, the fastest on fraud-mlp first."""
    cases = [f"{model}/c{connections}" for model, several in PEER_CONNECTIONS.items() for connections, _ in several]
    cases += [f"{model}/{OPEN_SHARE}" for model in PEER_CONNECTIONS]
    wanted = {*cases, *PEER_CONNECTIONS, "peers"}
    found: dict[str, dict[str, Row]] = {}
    for row in rows:
        if row.case in wanted:
            found.setdefault(row.system, {}).setdefault(row.case, row)
    lines = [
        Line(system, tuple(by_case.get(case) for case in cases), _reason(by_case.values()))
        for system, by_case in found.items()
        if system != FLOOR
    ]
    fastest = cases.index(f"fraud-mlp/c{PEER_CONNECTIONS['fraud-mlp'][-1][0]}")
    lines.sort(key=lambda line: -_rate(line.rows[fastest]))
    return lines


def _rate(row: Row | None) -> float:
    return 0.0 if row is None or row.requests_per_s is None else row.requests_per_s


def _reason(rows: Iterable[Row]) -> str:
    """Why a system has no figures, cut to what a table bears; the whole text is in the report's list."""
    return next((_brief_note(row) for row in rows if row.requests_per_s is None and row.note), "")


def _brief_note(row: Row) -> str:
    note = " ".join(row.note.split()).replace("|", "/")
    return note if len(note) <= NOTE_LENGTH else f"{note[:NOTE_LENGTH]}..."


def _cell(row: Row | None) -> str:
    if row is None:
        return ""
    if row.requests_per_s is None or row.p50_ms is None or row.p99_ms is None:
        return _brief_note(row)
    return f"{row.requests_per_s:,.0f} ({_brief(row.p50_ms)} / {_brief(row.p99_ms)})"


def _brief(milliseconds: float) -> str:
    """Three digits are what the measurement carries."""
    return f"{milliseconds:.2f}" if milliseconds < 10 else f"{milliseconds:.0f}"
