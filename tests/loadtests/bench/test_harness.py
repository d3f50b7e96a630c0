"""The harness measures itself."""

import os
import shutil
from pathlib import Path

import pytest

from loadtests.bench import harness
from loadtests.bench.context import Context
from loadtests.bench.report import Report


@pytest.mark.skipif(shutil.which("wrk") is None, reason="wrk is not installed")
def test_rows_name_what_wrk_can_do_and_how_late_the_generator_is(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(harness, "CONNECTIONS", (4,))
    monkeypatch.setattr(harness, "RATES", (100, 200))
    cores = sorted(os.sched_getaffinity(0))
    context = Context(tmp_path, 1.0, 1, True, None, Report({}), server_core=cores[0], load_core=cores[-1])
    harness.run(context)
    wrk, *arrivals = context.report.rows
    assert wrk.case == "harness: wrk c4"
    assert wrk.note.startswith("wrk: ")
    assert all(value is not None and value > 0 for value in (wrk.requests_per_s, wrk.p50_ms, wrk.p99_ms, wrk.cpu_us))
    assert [(row.case, row.system) for row in arrivals] == [
        (f"harness: open loop {rate}/s", system)
        for rate in (100, 200)
        for system in ("generator, lateness", harness.CONSTANT)
    ]
    assert context.open_loop_rate in (100, 200)  # the lower one even where a busy machine makes it late at both
