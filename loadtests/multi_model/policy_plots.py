"""Draws the comparison of eviction policies, as SVG that reads on any page."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Final

from loadtests.bench.plots import GRID, OURS_COLOUR, SETTINGS, STYLES, TEXT, CannotDraw
from loadtests.multi_model.comparison import ALL, BOUND, Cell
from loadtests.multi_model.simulation import Outcome

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

OURS: Final = "gdsf"
COLUMNS: Final = 4
_WIDTH: Final = 11.5


def draw(cells: Sequence[Cell], swept: Sequence[Cell], folder: Path) -> list[Path]:
    """Writes `eviction-hits.svg`, `eviction-seconds.svg` and `eviction-budgets.svg`, and names them. Raises `CannotDraw`."""
    try:
        import matplotlib as mpl
    except ImportError:
        raise CannotDraw("the plots need matplotlib: `pip install matplotlib`, then again") from None
    folder.mkdir(parents=True, exist_ok=True)
    written: list[Path] = []
    with mpl.rc_context(SETTINGS):
        for name, figure in (
            ("eviction-hits", _by_trace(cells, "Hit ratio", "%, right is better", _hits, "{:.1f}")),
            ("eviction-seconds", _by_trace(cells, "Seconds of loading", "left is better", _seconds, "{:,.0f}")),
            ("eviction-budgets", _by_budget(swept)),
        ):
            path = folder / f"{name}.svg"
            with mpl.rc_context({"svg.hashsalt": name}):
                figure.savefig(path, facecolor="white", metadata={"Date": None})
            written.append(path)
    return written


def _hits(outcome: Outcome) -> float:
    return 100 * outcome.hit_ratio


def _seconds(outcome: Outcome) -> float:
    return outcome.loading_s


def _by_trace(cells: Sequence[Cell], title: str, reading: str, value: Callable[[Outcome], float], text: str) -> Figure:
    """A panel for each trace with a line for each policy; what no policy can beat is a dashed line."""
    traces = list(dict.fromkeys(cell.trace for cell in cells))
    policies = list(ALL)[::-1]
    rows = -(-len(traces) // COLUMNS)
    under = f"{reading}; dashed: what no policy can beat, as it would have to know what comes"
    figure = _sheet(0.6 + 2.0 * rows, f"{title} by eviction policy and trace", under)
    panels = figure.subplots(rows, COLUMNS, sharey=True, squeeze=False)
    for place, trace in zip(panels.flat, traces, strict=False):
        found = {cell.policy: value(cell.outcome) for cell in cells if cell.trace == trace}
        place.axvline(found[BOUND], color=TEXT, linestyle=(0, (5.0, 3.0)), linewidth=1.1)
        for height, policy in enumerate(policies):
            place.plot([found[policy]], [height], "o", color=_colour(policy), markersize=6)
            _note(place, found[policy], height, text.format(found[policy]), policy)
        least, most = min(found.values()), max(found.values())
        room = max(most - least, 0.01 * most, 0.5)
        place.set_xlim(least - 0.12 * room, most + 0.55 * room)
        place.set_ylim(-0.7, len(policies) - 0.3)
        place.set_yticks(range(len(policies)), policies)
        place.set_title(trace, loc="left", fontsize=10)
        _plain(place)
        place.tick_params(axis="y", length=0)
    for unused in panels.flat[len(traces) :]:
        unused.set_visible(False)
    for left in panels[:, 0]:
        for label in left.get_yticklabels():
            if label.get_text() == OURS:
                label.set(color=OURS_COLOUR, fontweight="bold")
    return figure


def _by_budget(cells: Sequence[Cell]) -> Figure:
    """Hit ratio against the budget: a panel for each trace, a line for each policy."""
    traces = list(dict.fromkeys(cell.trace for cell in cells))
    figure = _sheet(4.2, "Hit ratio against the budget", "%, up is better; the budget as a share of the trace's own")
    panels = figure.subplots(1, len(traces), squeeze=False)[0]
    for place, trace in zip(panels, traces, strict=True):
        peers = iter(STYLES)
        for policy in (BOUND, *ALL):
            line = [cell for cell in cells if (cell.policy, cell.trace) == (policy, trace)]
            mine = policy == OURS
            if policy == BOUND:
                colour, marker = TEXT, ""
            else:
                colour, marker = (OURS_COLOUR, "o") if mine else next(peers)
            place.plot(
                [cell.share for cell in line],
                [_hits(cell.outcome) for cell in line],
                color=colour,
                marker=marker,
                linestyle="--" if policy == BOUND else "-",
                linewidth=2.6 if mine else 1.3,
                zorder=3 if mine else 2,
                label=policy,
            )
        place.set_title(trace, loc="left", fontsize=10)
        _plain(place)
    figure.legend(*panels[0].get_legend_handles_labels(), loc="outside right center", frameon=False, fontsize=8.5)
    return figure


def _sheet(height: float, title: str, under: str) -> Figure:
    """An empty figure, `height` inches high, with its title above and how to read it below."""
    from matplotlib.figure import Figure as Sheet
    from matplotlib.layout_engine import ConstrainedLayoutEngine

    figure = Sheet(figsize=(_WIDTH, height), layout=ConstrainedLayoutEngine(w_pad=0.1))
    figure.suptitle(title, x=0.008, ha="left", fontsize=12.5, fontweight="bold")
    figure.supxlabel(under, x=0.008, ha="left", fontsize=8.5)
    return figure


def _plain(place: Axes) -> None:
    place.grid(visible=True, color=GRID, alpha=0.35, linewidth=0.7)
    place.set_axisbelow(True)
    place.spines[["top", "right"]].set_visible(False)


def _note(place: Axes, value: float, height: float, text: str, policy: str) -> None:
    """Writes beside a point."""
    place.annotate(
        text,
        (value, height),
        (6, 0),
        textcoords="offset points",
        va="center",
        fontsize=7.5,
        fontweight="bold" if policy == OURS else "normal",
    )


def _colour(policy: str) -> str:
    return OURS_COLOUR if policy == OURS else STYLES[0][0]
