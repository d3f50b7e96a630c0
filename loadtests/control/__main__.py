"""`python -m loadtests.control`: runs the cases, prints the table and the verdicts; exits 1 when a target is missed."""

from __future__ import annotations

import argparse
import functools
import http.client
import os
import signal
import sys
from collections.abc import Callable, Mapping
from pathlib import Path

from botocore.exceptions import BotoCoreError, ClientError

from loadtests.bench.context import say
from loadtests.bench.load import LoadFailed, require_wrk
from loadtests.bench.protocols import WrongAnswer
from loadtests.bench.report import describe_machine
from loadtests.bench.servers import CannotStart
from loadtests.control import beside, deploying, many, pages, startup
from loadtests.control.calls import Refused
from loadtests.control.cases import CASES, CONNECTIONS, PLACES, SOURCES
from loadtests.control.context import QUICK, Context, NotServed, Sizes
from loadtests.control.report import Report

FAULTS = (
    CannotStart,
    LoadFailed,
    WrongAnswer,
    Refused,
    NotServed,
    TimeoutError,
    OSError,
    http.client.HTTPException,
    BotoCoreError,
    ClientError,
)
"""What makes a case one that could not be measured, and not the benchmark one that is broken."""


def runs() -> dict[str, Callable[[Context], None]]:
    """What each case name runs."""
    return {
        **{f"deploy/{source}": functools.partial(deploying.run, source=source) for source in SOURCES},
        "pages": pages.run,
        "many": many.run,
        **{
            f"beside/{place}/c{connections}": functools.partial(beside.run, place=place, connections=connections)
            for place in PLACES
            for connections in CONNECTIONS
        },
        "startup": startup.run,
    }


def arguments(given: list[str] | None = None) -> argparse.Namespace:
    """The command line."""
    cases = "\n".join(f"  {name:20} {text}" for name, text in CASES.items())
    parser = argparse.ArgumentParser(
        prog="python -m loadtests.control",
        description=__doc__,
        epilog=f"cases:\n{cases}",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--only", nargs="+", metavar="CASE", default=[], help="a case, or the start of several names")
    parser.add_argument("--quick", action="store_true", help="small and short: that it works, not how fast")
    parser.add_argument("--repeat", type=int, metavar="N", help="ABBA rounds, two loads a variant each (default 5)")
    parser.add_argument("--duration", type=float, metavar="SECONDS", help="of each measured load (default 3)")
    parser.add_argument("--executable", metavar="PATH", help="the `serving` command to measure (default: our own)")
    parser.add_argument("--folder", type=Path, default=Path(".bench"), help="where the models are kept")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the whole report as JSON")
    parser.add_argument("--markdown", type=Path, metavar="FILE", help="write the report as Markdown")
    return parser.parse_args(given)


def chosen(only: list[str], cases: Mapping[str, str] = CASES) -> list[str]:
    """The cases that the command line asks for. Raises SystemExit for a name that fits none."""
    for wish in only:
        if not any(name.startswith(wish) for name in cases):
            raise SystemExit(f"no case {wish!r}; there are: {', '.join(cases)}")
    return [name for name in cases if not only or any(name.startswith(wish) for wish in only)]


def measure(context: Context, names: list[str]) -> None:
    """Runs the cases one after the other; one that cannot be measured is noted with its reason."""
    known = runs()
    for name in names:
        say(f"{name}: {CASES[name]}")
        try:
            known[name](context)
        except FAULTS as error:
            context.report.failed[name] = f"{type(error).__name__}: {error}"
            say(f"  not measured: {context.report.failed[name]}")


def main() -> int:
    """Runs what was asked for."""
    # Unwinds like Ctrl-C, so that every server started here is ended.
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    options = arguments()
    names = chosen(options.only)
    try:
        require_wrk()
    except LoadFailed as error:
        raise SystemExit(str(error)) from None
    if (os.cpu_count() or 1) < 2:
        raise SystemExit("the benchmark needs two cores: one for the server, one for the load")
    os.sched_setaffinity(0, {1})  # this process drives and asks: it must stay off the server's core
    report = Report(describe_machine())
    context = Context(
        folder=options.folder,
        seconds=options.duration or (1.0 if options.quick else 3.0),
        rounds=options.repeat or (1 if options.quick else 5),
        sizes=QUICK if options.quick else Sizes(),
        executable=options.executable,
        report=report,
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
