"""The verdicts on an overload run, from made-up outcomes, and growth from made-up samples."""

import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from loadtests import overload
from loadtests.bench.openloop import Outcomes
from loadtests.bench.servers import Server


@pytest.fixture
def watch() -> overload.Watch:
    with subprocess.Popen([sys.executable, "-c", ""]) as process:
        server = Server("none", 0, process, "0", Path(os.devnull), 0.0)
    found = overload.Watch(server, kill_at_s=5.0)
    found.rss[1] = [100_000_000] * 20
    return found


METRICS = """\
serving_refusal_seconds_bucket{endpoint_name="encoder",le="0.002",variant_name="AllTraffic"} 80.0
serving_refusal_seconds_bucket{endpoint_name="encoder",le="0.005",variant_name="AllTraffic"} 99.0
serving_refusal_seconds_bucket{endpoint_name="encoder",le="0.007",variant_name="AllTraffic"} 100.0
serving_refusal_seconds_bucket{endpoint_name="encoder",le="+Inf",variant_name="AllTraffic"} 100.0
"""


def outcomes() -> Outcomes:
    """100 requests over 10 s: every tenth refused at once, the rest answered after half a second."""
    scheduled = np.arange(100) / 10
    status = np.where(np.arange(100) % 10 == 0, 429, 200)
    finished = scheduled + np.where(status == 429, 0.001, 0.5)
    return Outcomes(scheduled, scheduled.copy(), finished, status, np.zeros(100, bool))


def broken(found: Outcomes, watch: overload.Watch, metrics: str = METRICS) -> list[str]:
    return [verdict.promise for verdict in overload.judge(found, watch, True, metrics) if not verdict.kept]


def test_a_good_run(watch: overload.Watch) -> None:
    assert broken(outcomes(), watch) == []


def test_slow_refusals(watch: overload.Watch) -> None:
    slow = METRICS.replace(" 99.0", " 98.0")
    assert broken(outcomes(), watch, slow) == ["refusals within 5 ms (last byte read to answer written, p99)"]


def test_refusals_that_nobody_counted(watch: overload.Watch) -> None:
    assert broken(outcomes(), watch, "other_metric 1.0\n") == [
        "refusals within 5 ms (last byte read to answer written, p99)"
    ]
    assert overload.refusal_ms(METRICS, 0.5) == 2.0


def test_a_wrong_answer(watch: overload.Watch) -> None:
    found = outcomes()
    found.wrong[3] = True
    assert broken(found, watch) == ["no wrong answer"]


def test_a_status_that_was_not_promised(watch: overload.Watch) -> None:
    found = outcomes()
    found.status[3] = 500
    assert broken(found, watch) == ["only 200, 429 and 503"]


def test_errors_without_a_kill(watch: overload.Watch) -> None:
    found = outcomes()
    found.status[3] = 0
    assert broken(found, watch) == ["no connection error"]


def test_a_kill_costs_what_was_in_flight(watch: overload.Watch) -> None:
    watch.killed, watch.killed_at_s, watch.connections_lost = 1, 5.0, 3
    found = outcomes()
    found.status[46:49] = 0
    found.finished[46:49] = 5.0
    assert broken(found, watch) == []
    found.status[90] = 0  # long after the kill
    assert broken(found, watch) == ["kill -9 of a worker costs only what was in flight on it"]


def test_a_kill_must_not_cost_more_than_its_connections(watch: overload.Watch) -> None:
    watch.killed, watch.killed_at_s, watch.connections_lost = 1, 5.0, 2
    found = outcomes()
    found.status[46:49] = 0
    found.finished[46:49] = 5.0
    assert broken(found, watch) == ["kill -9 of a worker costs only what was in flight on it"]


def test_growing_memory(watch: overload.Watch) -> None:
    watch.rss[2] = [100_000_000 + 2_000_000 * second for second in range(20)]
    assert broken(outcomes(), watch) == ["workers' memory flat (end to settled start at most 1.05)"]
