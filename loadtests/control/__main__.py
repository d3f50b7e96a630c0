"""`python -m loadtests.control`: runs the cases, prints the table and the verdicts; exits 1 when a target is missed."""

from __future__ import annotations

import functools
import sys
from collections.abc import Callable

from loadtests import runner
from loadtests.bench.report import describe_machine
from loadtests.control import beside, deploying, many, pages, startup
from loadtests.control.cases import CASES, CONNECTIONS, PLACES, SOURCES, TARGETS
from loadtests.control.context import QUICK, Context, Sizes
from loadtests.report import Report


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


def main() -> int:
    """Runs what was asked for."""
    options = runner.arguments("loadtests.control", __doc__, CASES)
    runner.prepare()
    report = Report("Control plane", TARGETS, describe_machine())
    sizes = QUICK if options.quick else Sizes()
    context = Context(options.folder, options.duration, options.repeat, options.executable, report, sizes)
    return runner.run(context, runs(), options)


if __name__ == "__main__":
    sys.exit(main())
