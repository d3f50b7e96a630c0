"""The report of the benchmarks of deployed endpoints: what counts as held."""

from __future__ import annotations

import json

import pytest

from loadtests.bench.cases import at_most
from loadtests.bench.stats import Interval
from loadtests.report import Report, Times


def test_the_worse_end_of_the_interval_decides() -> None:
    report = Report("Some", {"cost": at_most(1.03)}, {"machine": "one"})
    assert report.figure("cost", Interval(1.0, 0.99, 1.03)).holds is True
    assert report.figure("cost", Interval(1.0, 0.99, 1.04)).holds is False
    assert report.figure("without a target", 3.0).holds is None
    assert [figure.high for figure in report.missed] == [1.04]
    assert "**missed**" in report.markdown()
    assert [figure["holds"] for figure in json.loads(report.json())["figures"]] == [True, False, None]


def test_times_are_percentiles_in_ms() -> None:
    times = Times.of("case", "what", [0.001 * number for number in range(1, 101)])
    assert (times.count, times.p50_ms, times.p99_ms, times.longest_ms) == pytest.approx((100, 50, 99, 100))
    assert times.cells()[2:6] == ["100", "50.00", "99.00", "100"]
