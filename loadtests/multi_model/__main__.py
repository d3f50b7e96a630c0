"""`python -m loadtests.multi_model`: runs the cases, prints the table and the verdicts; exits 1 when a target is missed.

The models that it makes and keeps are some 6 GB.
"""

from __future__ import annotations

import functools
import subprocess
import sys
from collections.abc import Callable

from loadtests import runner
from loadtests.bench.openloop import BadAnswer
from loadtests.bench.report import describe_machine
from loadtests.multi_model import herd, hits, known, loading, wide, zipf
from loadtests.multi_model.cases import CASES, CONNECTIONS, POLICIES, TARGETS
from loadtests.multi_model.context import QUICK, Amounts, Context
from loadtests.report import Report


def churned(context: Context) -> None:
    """`python -m loadtests.multi_model.churn`, which judges itself."""
    command = [sys.executable, "-m", "loadtests.multi_model.churn", "--cycles", str(context.amounts.cycles)]
    done = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=False)
    context.report.notes += [f"churn: {line}" for line in done.stdout.splitlines() if line.strip()]
    context.figure("churn: exit status", done.returncode)


def runs() -> dict[str, Callable[[Context], None]]:
    """What each case name runs."""
    return {
        **{f"hit/c{connections}": functools.partial(hits.run, connections=connections) for connections in CONNECTIONS},
        **{f"disk-hit/{size}MB": functools.partial(loading.disk_hits, megabytes=size) for size in wide.HIDDEN},
        "miss": loading.misses,
        **{f"zipf/{policy}": functools.partial(zipf.run, policy=policy) for policy in POLICIES},
        "known": known.run,
        "churn": churned,
        "herd": herd.run,
    }


def main() -> int:
    """Runs what was asked for."""
    options = runner.arguments("loadtests.multi_model", __doc__, CASES)
    runner.prepare()
    report = Report("Many models on one endpoint", TARGETS, describe_machine())
    amounts = QUICK if options.quick else Amounts()
    context = Context(options.folder, options.duration, options.repeat, options.executable, report, amounts=amounts)
    return runner.run(context, runs(), options, (*runner.FAULTS, BadAnswer, RuntimeError))


if __name__ == "__main__":
    sys.exit(main())
