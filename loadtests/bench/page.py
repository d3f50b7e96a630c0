"""The report as one HTML page that loads nothing: table, pictures as inline SVG, all rows, figures and targets."""

from __future__ import annotations

import html
from collections.abc import Sequence
from dataclasses import dataclass

from loadtests.bench.report import FIGURE_COLUMNS, Report
from loadtests.bench.rows import COLUMNS
from loadtests.bench.servers import OURS
from loadtests.bench.table import EXPLAINED, HEAD, side_by_side

_STYLE = """
:root { color-scheme: light dark; --text: #1b1f24; --back: #ffffff; --soft: #f3f5f7; --line: #d5dae0; --ours: #b34700; }
@media (prefers-color-scheme: dark) {
  :root { --text: #e6e9ed; --back: #14171a; --soft: #1d2126; --line: #3a4149; --ours: #ff9a4d; }
}
body { margin: 0 auto; max-width: 96rem; padding: 1.5rem; background: var(--back); color: var(--text);
  font: 15px/1.5 system-ui, sans-serif; }
h1 { font-size: 1.5rem; } h2 { font-size: 1.15rem; margin-top: 2.2rem; }
ul { padding-left: 1.2rem; }
.wide { overflow-x: auto; }
table { border-collapse: collapse; font-size: 13px; font-variant-numeric: tabular-nums; }
th, td { padding: .3rem .6rem; border-bottom: 1px solid var(--line); text-align: right; white-space: nowrap; }
th { background: var(--soft); position: sticky; top: 0; }
th:first-child, td:first-child, td.text { text-align: left; }
td.text { white-space: normal; min-width: 14rem; }
tr.ours td { color: var(--ours); font-weight: 600; }
figure { margin: 1rem 0; } figure svg { width: 100%; height: auto; color: var(--text); }
summary { cursor: pointer; margin-top: 2rem; font-weight: 600; }
"""


@dataclass(frozen=True, slots=True)
class Picture:
    """A drawing: its title and the SVG document, in which `currentColor` stands for the page's text."""

    title: str
    svg: str

    def element(self) -> str:
        """The drawing without what only a file of its own needs."""
        return self.svg[self.svg.index("<svg") :]


def page(report: Report, pictures: Sequence[Picture]) -> str:
    """The whole document."""
    facts = [f"{name}: {value}" for name, value in report.machine.items()] + list(report.notes)
    facts += [f"left out: {name}: {why}" for name, why in report.absent.items()]
    lines = [line.cells() for line in side_by_side(report.rows)]
    parts = [
        '<!doctype html><html lang="en"><head><meta charset="utf-8">',
        '<meta name="viewport" content="width=device-width, initial-scale=1">',
        f"<title>Benchmark</title><style>{_STYLE}</style></head><body><h1>Benchmark</h1>",
        "<ul>" + "".join(f"<li>{html.escape(fact)}</li>" for fact in facts) + "</ul>",
        f"<h2>Side by side</h2><p>{html.escape(EXPLAINED)}</p>",
        _table(HEAD, lines, named=0),
    ]
    for picture in pictures:
        label = html.escape(picture.title, quote=True)
        parts.append(f'<figure role="img" aria-label="{label}">{picture.element()}</figure>')
    parts += ["<details><summary>All rows</summary>", _table(COLUMNS, [row.cells() for row in report.rows], named=1)]
    parts += ["</details>"]
    if report.figures:
        verdicts = [[cell.replace("*", "") for cell in figure.cells()] for figure in report.figures]
        parts += ["<details><summary>Figures and targets</summary>", _table(FIGURE_COLUMNS, verdicts, named=0)]
        parts += ["</details>"]
    return "\n".join([*parts, "</body></html>\n"])


def _table(head: Sequence[str], lines: Sequence[Sequence[str]], named: int) -> str:
    """A table whose lines of this server, by the name in column `named`, stand out."""
    top = "".join(f"<th>{html.escape(cell)}</th>" for cell in head)
    body = "".join(
        f"<tr{' class=ours' if line[named].startswith(OURS) else ''}>{''.join(map(_cell, line))}</tr>" for line in lines
    )
    return f'<div class="wide"><table><thead><tr>{top}</tr></thead><tbody>{body}</tbody></table></div>'


def _cell(text: str) -> str:
    kind = ' class="text"' if len(text) > 40 else ""
    return f"<td{kind}>{html.escape(text)}</td>"
