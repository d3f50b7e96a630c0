"""Lists as people and programs read them: a table on a terminal, tab-separated lines in a pipe, JSON where asked for."""

from __future__ import annotations

import json
import re
import sys
from collections.abc import Iterable, Sequence
from datetime import datetime
from typing import Any, Final

import click

_CONTROL: Final = re.compile(r"[\x00-\x1f\x7f-\x9f]+")
_CONTROL_BUT_LINES: Final = re.compile(r"[\x00-\x08\x0b-\x1f\x7f-\x9f]+")


def show(headings: Sequence[str], rows: Iterable[Sequence[object]], none: str) -> None:
    """Prints rows: under headings and aligned on a terminal (`none` where there are none), else separated by tabs."""
    cells = [[cell(value) for value in row] for row in rows]
    if not sys.stdout.isatty():
        for row in cells:
            click.echo("\t".join(row))
    elif not cells:
        click.echo(none)
    else:
        for line in aligned([list(headings), *cells]):
            click.echo(line)


def aligned(rows: Sequence[Sequence[str]]) -> list[str]:
    """Lines whose columns begin one under another."""
    widths = [max(len(row[column]) for row in rows) for column in range(len(rows[0]))]
    return ["  ".join(text.ljust(width) for text, width in zip(row, widths, strict=True)).rstrip() for row in rows]


def show_json(document: object) -> None:
    """Prints a document of the API as it is; times are ISO 8601."""
    click.echo(json.dumps(document, indent=2, default=_json))


def cell(value: object) -> str:
    """A value in one line that no terminal takes for a command."""
    if isinstance(value, datetime):
        return value.astimezone().strftime("%Y-%m-%d %H:%M:%S")
    return _CONTROL.sub(" ", str(value)).strip()


def text(value: str) -> str:
    """A text of several lines that no terminal takes for a command."""
    return _CONTROL_BUT_LINES.sub(" ", value)


def _json(value: Any) -> str:
    if isinstance(value, datetime):
        return value.isoformat()
    raise TypeError(f"{type(value).__name__} is nothing that an answer holds")
