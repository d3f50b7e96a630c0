"""Verdicts and the forms of a report."""

import json

import pytest

from loadtests.bench.cases import TARGETS
from loadtests.bench.load import Load
from loadtests.bench.report import Figure, Report
from loadtests.bench.rows import Row, row
from loadtests.bench.stats import Interval

RATE = "fraud-mlp/c16 invocations: requests/s to floor"
P99 = "fraud-mlp/c16 invocations: p99 ms"


@pytest.mark.parametrize(
    ("figure", "holds"),
    [
        (Figure(RATE, 1.35, 1.31, 1.4), True),
        (Figure(RATE, 1.35, 1.29, 1.4), False),
        (Figure(P99, 0.9, 0.8, 0.99), True),
        (Figure(P99, 0.9, 0.8, 1.01), False),
        (Figure("not promised", 1.0, 1.0, 1.0), None),
    ],
)
def test_the_worse_end_decides(figure: Figure, holds: bool | None) -> None:
    assert figure.holds is holds


def test_poisson_targets_are_named_as_they_are_measured() -> None:
    assert "encoder/poisson 50 % of batch 32: p99 to ideal" in TARGETS


def test_row_holds_medians() -> None:
    loads = [Load(100 * n, 1.0, n, 2 * n, 0, cpu_s=0.001 * n) for n in (1, 3, 2)]
    found = row("case", "system", loads, to_limit=0.5)
    assert (found.requests_per_s, found.p50_ms, found.p99_ms, found.to_limit) == (200, 2, 4, 0.5)
    assert found.cpu_us == pytest.approx(10)


def report() -> Report:
    made = Report({"date": "2000-01-01", "machine": "a machine"}, runs=7, repeated=2, unsteady=1)
    made.rows.append(Row("fraud-mlp/c16", "serving", 50_000.4, 0.2, 0.5, 14.0, Interval(1.4, 1.35, 1.45)))
    made.rows.append(Row("peers", "mosec", note="not installed:\nno | network"))
    made.figures += [Figure(RATE, 1.4, 1.35, 1.45), Figure(P99, 2.0, 1.9, 2.1)]
    made.limits["fraud-mlp"] = {1: 150_000.0, 32: 2_700_000.0}
    made.absent["mosec"] = "no network"
    return made


def test_markdown_shows_everything() -> None:
    text = report().markdown()
    assert "- date: 2000-01-01" in text
    assert "| fraud-mlp/c16 | serving | 50,000 | 0.200 | 0.500 | 14.0 | 1.400 [1.350, 1.450] |" in text
    assert f"| {RATE} | 1.4 | 1.35 .. 1.45 | >= 1.3 | holds |" in text
    assert f"| {P99} | 2 | 1.9 .. 2.1 | <= 1 | **missed** |" in text
    assert "not installed: no / network" in text
    assert "- left out: mosec: no network" in text
    assert "| 150,000 | 2,700,000 |" in text


def test_json_says_what_was_missed() -> None:
    found = json.loads(report().json())
    assert [figure["holds"] for figure in found["figures"]] == [True, False]
    assert (found["runs"], found["repeated"], found["unsteady"]) == (7, 2, 1)
    assert found["rows"][0]["to_floor"] == {"value": 1.4, "low": 1.35, "high": 1.45}
    assert [figure.name for figure in report().missed] == [P99]
