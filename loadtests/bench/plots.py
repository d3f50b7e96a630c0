"""Draws a report: PNG files and one HTML page that needs nothing else.

`python -m loadtests.bench.plots REPORT.json FOLDER` draws again without measuring.
"""

from __future__ import annotations

import io
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from loadtests.bench import page
from loadtests.bench.cases import PEER_CONNECTIONS, PEER_SHARES
from loadtests.bench.report import Report
from loadtests.bench.rows import FLOOR, Row
from loadtests.bench.servers import OURS
from loadtests.bench.table import side_by_side

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

TEXT = "#1b1f24"
GRID = "#9aa3ad"
OURS_COLOUR = "#d55e00"
PEER_COLOUR = "#0072b2"
# Okabe and Ito's colours, which colour-blind readers tell apart, each with a marker of its own.
STYLES = (
    ("#0072b2", "s"),
    ("#009e73", "^"),
    ("#cc79a7", "D"),
    ("#56b4e9", "v"),
    ("#e69f00", "P"),
    ("#7d8590", "X"),
    ("#0072b2", "<"),
    ("#009e73", ">"),
    ("#cc79a7", "p"),
    ("#56b4e9", "h"),
)
SETTINGS: dict[Any, Any] = {
    "font.family": "sans-serif",
    "font.sans-serif": ["DejaVu Sans", "Arial", "sans-serif"],
    "font.size": 9,
    "text.color": TEXT,
    "axes.labelcolor": TEXT,
    "axes.edgecolor": GRID,
    "xtick.color": TEXT,
    "ytick.color": TEXT,
    "svg.fonttype": "none",
}
_DPI = 130
_WIDTH = 11.5


class CannotDraw(Exception):
    """There is nothing to draw with, or nothing to draw; the message says which."""


def draw(report: Report, folder: Path) -> list[Path]:
    """Writes the PNG files and `index.html` into the folder, and names them. Raises `CannotDraw`."""
    try:
        import matplotlib as mpl
    except ImportError:
        raise CannotDraw("the plots need matplotlib: `pip install matplotlib`, then again") from None
    written: list[Path] = []
    pictures: list[page.Picture] = []
    folder.mkdir(parents=True, exist_ok=True)
    with mpl.rc_context(SETTINGS):
        for name, title, figure in _figures(report):
            path = folder / f"{name}.png"
            figure.savefig(path, dpi=_DPI, facecolor="white")
            written.append(path)
            vector = io.StringIO()
            with mpl.rc_context({"svg.hashsalt": name}):
                figure.savefig(vector, format="svg", transparent=True, metadata={"Date": None})
            # The page's own text colour, so that it reads on light and on dark.
            pictures.append(page.Picture(title, vector.getvalue().replace(TEXT, "currentColor")))
    if not pictures:
        raise CannotDraw(f"nothing to draw: the report has no measured row of {' or '.join(PEER_CONNECTIONS)}")
    target = folder / "index.html"
    target.write_text(page.page(report, pictures))
    return [*written, target]


def _figures(report: Report) -> Iterator[tuple[str, str, Figure]]:
    """Name, title and figure, for what the report has rows of."""
    for model in PEER_CONNECTIONS:
        closed = [row for row in report.rows if row.case.startswith(f"{model}/c") and row.requests_per_s is not None]
        if closed:
            yield f"{model}-requests", f"{model}: requests/s", _requests(report, model, closed)
            yield f"{model}-latency", f"{model}: latency", _latency(model, closed)
        opened = [row for row in report.rows if row.case.startswith(f"{model}/open ") and row.p50_ms is not None]
        if opened:
            yield f"{model}-open-loop", f"{model}: latency against load", _open_loop(report, model, opened)


def _requests(report: Report, model: str, rows: Sequence[Row]) -> Figure:
    """Requests per second by system and connections, the fastest on top, with floor and limit as lines."""
    columns = _columns(model, rows)
    systems = _ranked(rows)
    figure, axes = _panels(f"{model}: requests per second in a closed loop", "right is better", columns, systems)
    for place, (connections, batch) in zip(axes, columns, strict=True):
        found = {row.system: row for row in rows if row.case == f"{model}/c{connections}"}
        bound = _bound(report, model, batch, found.get(FLOOR), place)
        for height, system in enumerate(systems):
            row = found.get(system)
            if row is None or row.requests_per_s is None:
                continue
            place.plot([row.requests_per_s], [height], "o", color=_colour(system), markersize=6.5)
            # Left of the point where the text would lie on the line.
            left = bound is not None and row.requests_per_s < bound < 2.5 * row.requests_per_s
            _note(place, row.requests_per_s, height, f"{row.requests_per_s:,.0f}", system, left)
        place.set_xlabel("requests/s")
    _finish(figure, axes, [row.requests_per_s for row in rows if row.requests_per_s], room=3.2)
    return figure


def _bound(report: Report, model: str, batch: int, floor: Row | None, place: Axes) -> float | None:
    """Draws the floor where it was measured, else the model's own limit, and gives its requests/s."""
    if floor is not None and floor.requests_per_s is not None:
        found, label, dashes = floor.requests_per_s, f"floor: {FLOOR}", (5.0, 3.0)
    elif batch in report.limits.get(model, {}):
        found, label, dashes = (
            report.limits[model][batch],
            f"limit: session.run alone, batch {_batches(model)}",
            (1.0, 1.5),
        )
    else:
        return None
    place.axvline(found, color=TEXT, linestyle=(0, dashes), linewidth=1.1, label=label)
    return found


def _batches(model: str) -> str:
    """The batch sizes of the limits, in the order of the panels."""
    return ", ".join(str(batch) for _, batch in PEER_CONNECTIONS[model])


def _latency(model: str, rows: Sequence[Row]) -> Figure:
    """Median and 99th percentile by system and connections, in the order of the requests' figure."""
    columns = _columns(model, rows)
    systems = _ranked(rows)
    figure, axes = _panels(f"{model}: latency in a closed loop", "left is better", columns, systems)
    for place, (connections, _) in zip(axes, columns, strict=True):
        found = {row.system: row for row in rows if row.case == f"{model}/c{connections}"}
        for height, system in enumerate(systems):
            row = found.get(system)
            if row is None or row.p50_ms is None or row.p99_ms is None:
                continue
            colour = _colour(system)
            place.plot([row.p50_ms, row.p99_ms], [height, height], "-", color=colour, linewidth=2, alpha=0.55)
            place.plot([row.p50_ms], [height], "o", color=colour, markersize=6.5, label="median")
            place.plot([row.p99_ms], [height], "|", color=colour, markersize=10, markeredgewidth=2.2, label="p99")
            _note(place, row.p99_ms, height, f"{_brief(row.p50_ms)} / {_brief(row.p99_ms)}", system)
        place.set_xlabel("ms, median / p99")
    every = [value for row in rows for value in (row.p50_ms, row.p99_ms) if value]
    _finish(figure, axes, every, room=9.0)
    return figure


def _open_loop(report: Report, model: str, rows: Sequence[Row]) -> Figure:
    """Latency against the rate of Poisson arrivals: one line a system, one panel for each percentile."""
    from matplotlib.ticker import FuncFormatter, LogLocator, NullFormatter

    shares = ", ".join(f"{share:.0%}".replace("%", "") for share in PEER_SHARES)
    under = (
        f"Poisson arrivals at {shares} % of what each system reached in a closed loop, as far as the generator keeps up"
    )
    figure = _sheet(5.2, f"{model}: latency against load, open loop", f"{under}; right and down is better")
    axes = figure.subplots(1, 2, sharey=True, sharex=True)
    systems = [line.system for line in side_by_side(report.rows) if any(row.system == line.system for row in rows)]
    for place, part in zip(axes, ("median", "p99"), strict=True):
        peers = iter(STYLES)
        for system in systems:
            mine = system.startswith(OURS)
            colour, marker = (OURS_COLOUR, "o") if mine else next(peers, STYLES[0])
            several = sorted((row for row in rows if row.system == system), key=lambda row: row.requests_per_s or 0)
            place.plot(
                [row.requests_per_s or 0 for row in several],
                [(row.p50_ms if part == "median" else row.p99_ms) or 0 for row in several],
                color=colour,
                marker=marker,
                markersize=7 if mine else 5.5,
                linewidth=2.6 if mine else 1.3,
                zorder=3 if mine else 2,
                label=system,
            )
        place.set(xscale="log", yscale="log", xlabel="arrivals/s")
        place.set_title(part, loc="left", fontsize=10)
        place.grid(visible=True, which="major", color=GRID, alpha=0.35, linewidth=0.7)
        for axis in (place.xaxis, place.yaxis):
            axis.set_major_locator(LogLocator(subs=(1, 2, 5)))
            axis.set_major_formatter(FuncFormatter(_plain))
            axis.set_minor_formatter(NullFormatter())
        place.tick_params(axis="x", labelrotation=45)
        place.spines[["top", "right"]].set_visible(False)
    axes[0].set_ylabel("latency from the due moment, ms")
    figure.legend(*axes[0].get_legend_handles_labels(), loc="outside right center", frameon=False, fontsize=8.5)
    return figure


def _columns(model: str, rows: Sequence[Row]) -> list[tuple[int, int]]:
    """The numbers of connections that were measured, each with the batch of its limit."""
    return [case for case in PEER_CONNECTIONS[model] if any(row.case == f"{model}/c{case[0]}" for row in rows)]


def _ranked(rows: Sequence[Row]) -> list[str]:
    """The systems by their best requests/s, the best last: the axis counts from below."""
    best: dict[str, float] = {}
    for row in rows:
        if row.system != FLOOR:
            best[row.system] = max(best.get(row.system, 0.0), row.requests_per_s or 0.0)
    return sorted(best, key=lambda system: best[system])


def _panels(
    title: str, reading: str, columns: Sequence[tuple[int, int]], systems: Sequence[str]
) -> tuple[Figure, list[Axes]]:
    """One panel for each number of connections, with a line for each system."""
    under = f"one row in each request, server on one core, log scale; {reading}"
    figure = _sheet(1.9 + 0.29 * len(systems), title, under)
    axes = list(figure.subplots(1, len(columns), sharey=True, sharex=True, squeeze=False)[0])
    for place, (connections, _) in zip(axes, columns, strict=True):
        place.set_title(f"{connections} connection{'s' * (connections > 1)}", loc="left", fontsize=10)
        place.set_xscale("log")
        place.set_ylim(-0.7, len(systems) - 0.3)
        place.set_yticks(range(len(systems)), systems)
        place.tick_params(axis="y", length=0)
        place.grid(visible=True, axis="x", color=GRID, alpha=0.35, linewidth=0.7)
        place.grid(visible=True, axis="y", color=GRID, alpha=0.2, linewidth=0.7)
        place.set_axisbelow(True)
        place.spines[["top", "right", "left"]].set_visible(False)
    for label, system in zip(axes[0].get_yticklabels(), systems, strict=True):
        if system.startswith(OURS):
            label.set(color=OURS_COLOUR, fontweight="bold")
    return figure, axes


def _finish(figure: Figure, axes: Sequence[Axes], values: Sequence[float], room: float) -> None:
    """Plain numbers on the axes, `room` times the largest value for what is written beside it, and one legend."""
    from matplotlib.ticker import FuncFormatter, LogLocator, NullFormatter

    for place in axes:
        place.set_xlim(min(values) / 1.5, max(values) * room)
        place.xaxis.set_major_locator(LogLocator())
        place.xaxis.set_major_formatter(FuncFormatter(_plain))
        place.xaxis.set_minor_formatter(NullFormatter())
    handles, labels = axes[0].get_legend_handles_labels()
    unique = dict(zip(labels, handles, strict=True))
    if unique:
        figure.legend(unique.values(), unique.keys(), loc="outside upper right", ncols=2, frameon=False, fontsize=8.5)


def _sheet(height: float, title: str, under: str) -> Figure:
    """An empty figure, `height` inches high, with its title above and how to read it below."""
    from matplotlib.figure import Figure as Sheet
    from matplotlib.layout_engine import ConstrainedLayoutEngine

    figure = Sheet(figsize=(_WIDTH, height), layout=ConstrainedLayoutEngine(w_pad=0.1))
    figure.suptitle(title, x=0.008, ha="left", fontsize=12.5, fontweight="bold")
    figure.supxlabel(under, x=0.008, ha="left", fontsize=8.5)
    return figure


def _note(place: Axes, value: float, height: float, text: str, system: str, left: bool = False) -> None:
    """Writes beside a point."""
    place.annotate(
        text,
        (value, height),
        (-7 if left else 7, 0),
        textcoords="offset points",
        ha="right" if left else "left",
        va="center",
        fontsize=8,
        fontweight="bold" if system.startswith(OURS) else "normal",
    )


def _colour(system: str) -> str:
    return OURS_COLOUR if system.startswith(OURS) else PEER_COLOUR


def _brief(milliseconds: float) -> str:
    return f"{milliseconds:.2f}" if milliseconds < 10 else f"{milliseconds:.0f}"


def _plain(value: float, position: int) -> str:
    """A tick as people write it."""
    return f"{value:,.0f}" if value >= 1 else f"{value:g}"


def main(arguments: Sequence[str]) -> int:
    """Draws the report that the first argument names into the folder that the second names."""
    if len(arguments) != 2:
        raise SystemExit("usage: python -m loadtests.bench.plots REPORT.json FOLDER")
    source, folder = (Path(argument) for argument in arguments)
    try:
        report = Report.read(source.read_bytes())
    except OSError as error:
        raise SystemExit(f"the report {source} cannot be read: {error.strerror}") from None
    except ValueError as error:
        raise SystemExit(f"{source} is not a report of `python -m loadtests.bench --json`: {error}") from None
    try:
        for path in draw(report, folder):
            print(path)
    except CannotDraw as error:
        raise SystemExit(str(error)) from None
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
