"""The control plane's benchmark: its cases, and a short run of what needs no load generator."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from loadtests.control import deploying, pages, startup
from loadtests.control.__main__ import runs
from loadtests.control.cases import CALLS, CASES, TARGETS
from loadtests.control.context import Context, NotServed, Sizes, in_service, populate
from loadtests.control.traffic import BEGUN
from loadtests.report import Report
from loadtests.runner import chosen

TINY = Sizes(endpoints=4, configs=12, deployed=2, waits=1, calls=3, starts=1, warming_starts=0)


@pytest.fixture
def context(tmp_path: Path) -> Iterator[Context]:
    cores = sorted(os.sched_getaffinity(0))
    made = Context(tmp_path, 1.0, 1, None, Report("", TARGETS), TINY, server_core=cores[0], load_core=cores[-1])
    yield made
    made.close()


def figures(context: Context) -> dict[str, float]:
    return {figure.name: figure.value for figure in context.report.figures}


def test_every_case_is_run_by_something() -> None:
    assert runs().keys() == CASES.keys()
    assert list(chosen(["deploy", "pages"], CASES)) == ["deploy/file", "deploy/s3", "pages"]


def test_endpoints_are_deployed_updated_and_deleted(context: Context) -> None:
    deploying.run(context, "file")
    assert {name for name in TARGETS if name.startswith("deploy/file")} == figures(context).keys()
    assert [times.count for times in context.report.times] == [2, 2, 1, 2, 2]


def test_pages_and_starts_beside_stored_endpoints(context: Context) -> None:
    pages.run(context)
    startup.run(context)
    found = figures(context)
    assert {name for name in TARGETS if name.startswith("pages")} < found.keys()
    assert len(context.report.times) == 2 * len(CALLS)
    assert found["startup: 4 endpoints: start to ready, s"] > 0


@pytest.mark.parametrize("kind", ["records", "endpoints"])
def test_control_traffic_gets_answers(context: Context, kind: str) -> None:
    first, other = context.archives(2)
    with context.server() as server:
        populate(server.port, [first], 1)
        command = [sys.executable, "-m", "loadtests.control.traffic", str(server.port), kind, other.url]
        done = subprocess.run(command, input="", capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 0, done.stderr + done.stdout
    begun, counted = done.stdout.splitlines()
    assert begun == BEGUN
    assert json.loads(counted)["calls"] > 0


def test_an_endpoint_that_fails_is_told_with_its_reason() -> None:
    class Answering:
        def settled(self, endpoint: str) -> dict[str, str]:
            return {"EndpointStatus": "Failed", "FailureReason": "no such object"}

    with pytest.raises(NotServed, match="e is Failed: no such object"):
        in_service(Answering(), "e")  # type: ignore[arg-type]
