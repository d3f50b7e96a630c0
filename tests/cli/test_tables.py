"""Lists: for people on a terminal, for programs in a pipe."""

from __future__ import annotations

import io
import json
import sys
from datetime import UTC, datetime
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from serving.cli import table


class Terminal(io.StringIO):
    """A terminal, as far as one asks."""

    def isatty(self) -> bool:
        return True


def shown(monkeypatch: pytest.MonkeyPatch, out: io.StringIO, *rows: tuple[Any, ...]) -> str:
    monkeypatch.setattr(sys, "stdout", out)
    table.show(("NAME", "STATUS"), rows, "there are none")
    return out.getvalue()


def test_a_terminal_gets_columns(monkeypatch: pytest.MonkeyPatch) -> None:
    text = shown(monkeypatch, Terminal(), ("fraud", "InService"), ("a-longer-name", ""))
    assert text.splitlines() == ["NAME           STATUS", "fraud          InService", "a-longer-name"]
    assert shown(monkeypatch, Terminal()) == "there are none\n"


def test_a_pipe_gets_tabs_and_nothing_else(monkeypatch: pytest.MonkeyPatch) -> None:
    assert shown(monkeypatch, io.StringIO(), ("fraud", "InService"), ("b", "")) == "fraud\tInService\nb\t\n"
    assert shown(monkeypatch, io.StringIO()) == ""


@pytest.mark.parametrize("out", [Terminal, io.StringIO])
@given(st.lists(st.tuples(st.text(), st.text()), max_size=5))
def test_a_row_is_a_line_whatever_it_holds(out: type[io.StringIO], rows: list[tuple[str, str]]) -> None:
    with pytest.MonkeyPatch.context() as monkeypatch:
        text = shown(monkeypatch, out(), *rows)
    assert text.count("\n") == (len(rows) + 1 if out is Terminal else len(rows))
    assert "\x1b" not in text
    if out is io.StringIO:
        assert text.count("\t") == len(rows)


def test_texts_keep_their_lines_and_drive_no_terminal() -> None:
    assert table.text("one\n\ttwo\x1b[2J\r\x07 three\x9b1m") == "one\n\ttwo [2J  three 1m"


def test_documents_are_exact(capsys: pytest.CaptureFixture[str]) -> None:
    document = [{"EndpointName": "fraud", "CreationTime": datetime(2026, 11, 21, 17, 5, 3, 250_000, UTC), "Ünits": 1.5}]
    table.show_json(document)
    assert json.loads(capsys.readouterr().out) == [
        {"EndpointName": "fraud", "CreationTime": "2026-11-21T17:05:03.250000+00:00", "Ünits": 1.5}
    ]
    with pytest.raises(TypeError, match="object is nothing that an answer holds"):
        table.show_json(object())
