"""`python -m loadtests.multi_model`: runs the cases, prints the table and the verdicts; exits 1 when a target is missed."""

from __future__ import annotations

import argparse
import functools
import os
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

from loadtests.bench.context import say
from loadtests.bench.load import LoadFailed, require_wrk
from loadtests.bench.openloop import BadAnswer
from loadtests.bench.report import describe_machine
from loadtests.control.__main__ import FAULTS, chosen
from loadtests.control.context import Sizes
from loadtests.control.report import Report
from loadtests.multi_model import herd, hits, known, loading, zipf
from loadtests.multi_model.cases import CASES, CONNECTIONS, POLICIES, TARGETS
from loadtests.multi_model.context import QUICK, Amounts, Context


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
        "disk-hit": loading.disk_hits,
        "miss": loading.misses,
        **{f"zipf/{policy}": functools.partial(zipf.run, policy=policy) for policy in POLICIES},
        "known": known.run,
        "churn": churned,
        "herd": herd.run,
    }


def arguments(given: list[str] | None = None) -> argparse.Namespace:
    """The command line."""
    cases = "\n".join(f"  {name:14} {text}" for name, text in CASES.items())
    parser = argparse.ArgumentParser(
        prog="python -m loadtests.multi_model",
        description=__doc__,
        epilog=f"cases:\n{cases}",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--only", nargs="+", metavar="CASE", default=[], help="a case, or the start of several names")
    parser.add_argument("--quick", action="store_true", help="small and short: that it works, not how fast")
    parser.add_argument("--repeat", type=int, metavar="N", help="ABBA rounds, two loads a variant each (default 5)")
    parser.add_argument("--duration", type=float, metavar="SECONDS", help="of each measured load (default 3)")
    parser.add_argument("--executable", metavar="PATH", help="the `serving` command to measure (default: our own)")
    parser.add_argument("--folder", type=Path, default=Path(".bench"), help="where the models are kept: some 6 GB")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the whole report as JSON")
    parser.add_argument("--markdown", type=Path, metavar="FILE", help="write the report as Markdown")
    return parser.parse_args(given)


def measure(context: Context, names: list[str]) -> None:
    """Runs the cases one after the other; one that cannot be measured is noted with its reason."""
    known_runs = runs()
    for name in names:
        say(f"{name}: {CASES[name]}")
        try:
            known_runs[name](context)
        except (*FAULTS, BadAnswer, RuntimeError) as error:
            context.report.failed[name] = f"{type(error).__name__}: {error}"
            say(f"  not measured: {context.report.failed[name]}")


def main() -> int:
    """Runs what was asked for."""
    # Unwinds like Ctrl-C, so that every server started here is ended.
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    options = arguments()
    names = chosen(options.only, CASES)
    try:
        require_wrk()
    except LoadFailed as error:
        raise SystemExit(str(error)) from None
    if (os.cpu_count() or 1) < 2:
        raise SystemExit("the benchmark needs two cores: one for the server, one for the load and the object store")
    os.sched_setaffinity(0, {1})  # this process asks: it must stay off the server's core
    report = Report(describe_machine(), "Many models on one endpoint", TARGETS)
    context = Context(
        folder=options.folder,
        seconds=options.duration or (1.0 if options.quick else 3.0),
        rounds=options.repeat or (1 if options.quick else 5),
        sizes=Sizes(),
        executable=options.executable,
        report=report,
        amounts=QUICK if options.quick else Amounts(),
    )
    interrupted = False
    try:
        measure(context, names)
    except KeyboardInterrupt:
        interrupted = True
        say("interrupted: the report holds what was measured until now")
    finally:
        context.close()
    for file, text in ((options.json, report.json()), (options.markdown, report.markdown())):
        if file:
            file.parent.mkdir(parents=True, exist_ok=True)
            file.write_text(text)
    print(report.markdown())
    return 130 if interrupted else int(bool(report.failed or report.missed))


if __name__ == "__main__":
    sys.exit(main())
