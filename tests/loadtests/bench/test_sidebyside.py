"""What the comparison does around a load: reasons, deadlines, and what it does not measure twice."""

import contextlib
import os
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from loadtests.bench import sidebyside
from loadtests.bench.arrivals import MOST_LAG_MS, Arrived
from loadtests.bench.arrivals import run as run_arrivals
from loadtests.bench.context import Context
from loadtests.bench.load import LoadFailed
from loadtests.bench.models import ENCODER, FRAUD, BenchModel
from loadtests.bench.protocols import INVOCATIONS
from loadtests.bench.report import Report
from loadtests.bench.rows import Row
from loadtests.bench.servers import CannotStart, Server, constant
from loadtests.bench.sidebyside import Deadline, System, Trial


@pytest.fixture
def context(tmp_path: Path) -> Context:
    cores = sorted(os.sched_getaffinity(0))
    report = Report({})
    return Context(tmp_path, 1.0, 1, True, None, report, server_core=cores[0], load_core=cores[-1])


def test_a_system_that_does_not_start_is_a_row_with_the_reason_for_each_model(context: Context) -> None:
    started: list[str] = []

    @contextlib.contextmanager
    def start(model: BenchModel) -> Iterator[Server]:
        started.append(model.name)
        raise CannotStart("it ended with 1: no such\noption")
        yield

    sidebyside._system(context, System("Other 1.0", INVOCATIONS, start))
    assert started == [FRAUD.name, ENCODER.name]
    assert [(row.case, row.system, row.note) for row in context.report.rows] == [
        (name, "Other 1.0", "it ended with 1: no such\noption") for name in started
    ]
    assert context.report.absent["Other 1.0 in encoder"] == "it ended with 1: no such option"


def test_a_deadline_says_what_was_left_out() -> None:
    Deadline(60).check()
    with pytest.raises(LoadFailed, match="left out: the -1 s for this system and model were over"):
        Deadline(-1).check()


def trial(context: Context, server: Server, deadline: Deadline) -> Trial:
    target = server.ask(INVOCATIONS, FRAUD, context.sample(FRAUD), check=False)
    system = System("Other 1.0", INVOCATIONS, lambda model: contextlib.nullcontext(server))
    return Trial(context, system, FRAUD, server, target, deadline)


def test_a_case_that_takes_too_long_is_a_row_and_the_next_is_tried(context: Context) -> None:
    known = Row("fraud-mlp/c16", "Other 1.0", 100.0, 1.0, 2.0)
    context.report.rows.append(known)
    with constant(str(context.server_core)) as server:
        trial(context, server, Deadline(-1)).beside(server)
    assert [(row.case, row.note[:8]) for row in context.report.rows] == [
        ("fraud-mlp/c16", ""),  # measured by an earlier case of the run, and not again
        ("fraud-mlp/c1", "left out"),
        ("fraud-mlp/c64", "left out"),
    ]


def test_open_loop_keeps_to_shares_of_the_closed_loop_and_to_what_the_generator_can_do(context: Context) -> None:
    context.open_loop_rate = 150.0
    context.report.rows.append(Row("fraud-mlp/c64", "Other 1.0", 500.0, 1.0, 2.0))
    with constant(str(context.server_core)) as server:
        trial(context, server, Deadline(60)).open_loop()
    low, high = context.report.rows[1:]
    # The constant is not this model's answer, which is found under open loop too.
    assert (low.case, high.case) == ("fraud-mlp/open 20 %", "fraud-mlp/open 50 %")
    assert all(row.note.endswith("answers under open-loop load were wrong") for row in (low, high))


def test_arrivals_are_all_answered_and_their_row_tells_of_a_late_generator(context: Context) -> None:
    moments = np.arange(1, 51) / 500
    with constant(str(context.server_core)) as server:
        arrived = run_arrivals(context, server, INVOCATIONS, FRAUD, moments, check=False)
    assert len(arrived.latencies_ms) == len(arrived.lag_ms) == 50
    assert arrived.requests_per_s == pytest.approx(500)
    late = Arrived(moments, arrived.latencies_ms, np.full(50, 2 * MOST_LAG_MS))
    assert "the generator was 0.40 ms late at p99" in late.row("case", "system").note
    on_time = Arrived(moments, arrived.latencies_ms, np.zeros(50))
    assert on_time.row("case", "system").note == "open loop"
