"""What the benchmarks of deployed endpoints share: their command line, and the run of their cases one after the other."""

from __future__ import annotations

import http.client
import os
import signal
from argparse import ArgumentParser, Namespace, RawDescriptionHelpFormatter
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TypeVar

from botocore.exceptions import BotoCoreError, ClientError

from loadtests.bench.context import say
from loadtests.bench.load import LoadFailed, require_wrk
from loadtests.bench.protocols import WrongAnswer
from loadtests.bench.servers import CannotStart
from loadtests.control.calls import Refused
from loadtests.control.context import Context, NotServed

Run = TypeVar("Run", bound=Context)

FAULTS = (
    CannotStart,
    LoadFailed,
    WrongAnswer,
    Refused,
    NotServed,
    OSError,
    http.client.HTTPException,
    BotoCoreError,
    ClientError,
)
"""What makes a case one that could not be measured, and not the benchmark one that is broken."""


def arguments(program: str, about: str, cases: Mapping[str, str], given: list[str] | None = None) -> Namespace:
    """The command line; its `cases` are those that it asks for. Raises SystemExit."""
    width = max(map(len, cases))
    parser = ArgumentParser(
        prog=f"python -m {program}",
        description=about,
        epilog="\n".join(["cases:", *(f"  {name:{width}}  {text}" for name, text in cases.items())]),
        formatter_class=RawDescriptionHelpFormatter,
    )
    parser.add_argument("--only", nargs="+", metavar="CASE", default=[], help="a case, or the start of several names")
    parser.add_argument("--quick", action="store_true", help="small and short: that it works, not how fast")
    parser.add_argument("--repeat", type=int, metavar="N", help="ABBA rounds, two loads a variant each (default 5)")
    parser.add_argument("--duration", type=float, metavar="SECONDS", help="of each measured load (default 3)")
    parser.add_argument("--executable", metavar="PATH", help="the `serving` command to measure (default: our own)")
    parser.add_argument("--folder", type=Path, default=Path(".bench"), help="where the models are kept")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the whole report as JSON")
    parser.add_argument("--markdown", type=Path, metavar="FILE", help="write the report as Markdown")
    options = parser.parse_args(given)
    options.cases = chosen(options.only, cases)
    options.repeat = options.repeat or (1 if options.quick else 5)
    options.duration = options.duration or (1.0 if options.quick else 3.0)
    return options


def chosen(only: list[str], cases: Mapping[str, str]) -> dict[str, str]:
    """The cases whose names start as one of the wishes, or all. Raises SystemExit for a wish that fits none."""
    for wish in only:
        if not any(name.startswith(wish) for name in cases):
            raise SystemExit(f"no case {wish!r}; there are: {', '.join(cases)}")
    return {name: text for name, text in cases.items() if not only or name.startswith(tuple(only))}


def prepare() -> None:
    """Makes this process the one that drives and asks. Raises SystemExit where the machine does not allow to measure."""
    # Unwinds like Ctrl-C, so that every server started here is ended.
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    try:
        require_wrk()
    except LoadFailed as error:
        raise SystemExit(str(error)) from None
    if (os.cpu_count() or 1) < 2:
        raise SystemExit("the benchmark needs two cores: one for the server, one for the load")
    os.sched_setaffinity(0, {1})  # it must stay off the server's core


def run(
    context: Run,
    runs: Mapping[str, Callable[[Run], None]],
    options: Namespace,
    faults: tuple[type[Exception], ...] = FAULTS,
) -> int:
    """Runs the cases, writes and prints the report, and gives the exit status.

    A case that ends in one of `faults` is noted with its reason.
    """
    report, interrupted = context.report, False
    try:
        for name, text in options.cases.items():
            say(f"{name}: {text}")
            try:
                runs[name](context)
            except faults as error:
                report.failed[name] = f"{type(error).__name__}: {error}"
                say(f"  not measured: {report.failed[name]}")
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
