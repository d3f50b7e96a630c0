"""What the benchmarks of deployed endpoints share: the cases that are chosen, run, and told of."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest

from loadtests import runner
from loadtests.bench.cases import at_most
from loadtests.bench.load import LoadFailed
from loadtests.control.context import Context
from loadtests.report import Report

CASES = {"one/a": "the first", "one/b": "the same again", "two": "another"}


def run(folder: Path, *given: str, **runs: Callable[[Context], None]) -> tuple[int, Report]:
    """The exit status of a run whose cases are named as what they run."""
    options = runner.arguments("some", "", dict.fromkeys(runs, "text"), ["--json", str(folder / "new" / "x"), *given])
    report = Report("Some", {"figure": at_most(1)})
    context = Context(folder, options.duration, options.repeat, None, report)
    return runner.run(context, runs, options), report


def test_the_command_line() -> None:
    options = runner.arguments("some", "", CASES, [])
    assert (options.cases, options.repeat, options.duration) == (CASES, 5, 3.0)
    options = runner.arguments("some", "", CASES, ["--quick", "--repeat", "2", "--only", "two", "one/b"])
    assert (list(options.cases), options.repeat, options.duration) == (["one/b", "two"], 2, 1.0)
    with pytest.raises(SystemExit, match=r"no case 'tow'; there are: one/a, one/b, two"):
        runner.arguments("some", "", CASES, ["--only", "tow"])


def test_a_case_that_cannot_be_measured_is_told_and_the_next_one_is_run(tmp_path: Path) -> None:
    def failing(context: Context) -> None:
        raise LoadFailed("no answer")

    status, report = run(tmp_path, first=failing, second=lambda context: context.figure("figure", 1.0))
    assert (status, report.failed) == (1, {"first": "LoadFailed: no answer"})
    written = json.loads((tmp_path / "new" / "x").read_bytes())
    assert [figure["name"] for figure in written["figures"]] == ["figure"]


@pytest.mark.parametrize(("value", "status"), [(1.0, 0), (1.1, 1)])
def test_a_target_that_is_missed_decides(tmp_path: Path, value: float, status: int) -> None:
    assert run(tmp_path, only=lambda context: context.figure("figure", value))[0] == status


def test_what_was_measured_before_an_interruption_is_kept(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    def interrupted(context: Context) -> None:
        raise KeyboardInterrupt

    status, _ = run(tmp_path, first=lambda context: context.figure("figure", 1.0), second=interrupted)
    assert status == 130
    assert "| figure | 1 |" in capsys.readouterr().out


def test_a_fault_of_the_benchmark_itself_is_not_swallowed(tmp_path: Path) -> None:
    def broken(context: Context) -> None:
        raise KeyError("x")

    with pytest.raises(KeyError):
        run(tmp_path, only=broken)
