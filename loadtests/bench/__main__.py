"""`python -m loadtests.bench`: runs the cases, prints the table and the verdicts; exits 1 when a target is missed."""

from __future__ import annotations

import argparse
import functools
import os
import signal
import sys
from collections.abc import Callable
from pathlib import Path

from loadtests.bench import (
    against,
    closed,
    grpc_cases,
    harness,
    mixed,
    plots,
    poisson,
    sidebyside,
    startup,
    streaming,
    trees,
    workers,
)
from loadtests.bench.cases import CASES, ENCODER_CONNECTIONS, FRAUD_CONNECTIONS
from loadtests.bench.context import Context, say
from loadtests.bench.limits import BATCHES
from loadtests.bench.load import LoadFailed, require_wrk
from loadtests.bench.models import ENCODER, FRAUD
from loadtests.bench.protocols import WrongAnswer
from loadtests.bench.report import Report, describe_machine
from loadtests.bench.rows import Row
from loadtests.bench.servers import CannotStart


def runs() -> dict[str, Callable[[Context], None]]:
    """What each case name runs."""
    found: dict[str, Callable[[Context], None]] = {}
    for connections in FRAUD_CONNECTIONS:
        found[f"fraud-mlp/c{connections}"] = functools.partial(closed.fraud, connections=connections)
    for connections, batch in ENCODER_CONNECTIONS:
        found[f"encoder/c{connections}"] = functools.partial(closed.encoder, connections=connections, batch=batch)
    found |= {"encoder/poisson": poisson.run, "mixed": mixed.run}
    for connections in FRAUD_CONNECTIONS:
        found[f"grpc/fraud-mlp/c{connections}"] = functools.partial(grpc_cases.fraud, connections=connections)
    for connections, batch in ENCODER_CONNECTIONS:
        run = functools.partial(grpc_cases.encoder, connections=connections, batch=batch)
        found[f"grpc/encoder/c{connections}"] = run
    return found | {
        "grpc/mixed": grpc_cases.mixed,
        "workers": workers.run,
        "startup": startup.run,
        "streaming": streaming.run,
        "trees": trees.run,
        "harness": harness.run,
        "peers": sidebyside.run,
    }


def arguments(given: list[str] | None = None) -> argparse.Namespace:
    """The command line."""
    cases = "\n".join(f"  {name:16} {text}" for name, text in CASES.items())
    parser = argparse.ArgumentParser(
        prog="python -m loadtests.bench",
        description=__doc__,
        epilog=f"cases:\n{cases}",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--only", nargs="+", metavar="CASE", default=[], help="a case, or the start of several names")
    parser.add_argument("--quick", action="store_true", help="1 s loads, one round: that it works, not how fast")
    parser.add_argument("--peers", action=argparse.BooleanOptionalAction, default=True, help="run the others too")
    parser.add_argument("--repeat", type=int, metavar="N", help="ABBA rounds, two loads a variant each (default 3)")
    parser.add_argument("--duration", type=float, metavar="SECONDS", help="of each measured load (default 5)")
    parser.add_argument("--executable", metavar="PATH", help="the `serving` command to measure (default: our own)")
    parser.add_argument(
        "--against", metavar="PATH", help="only compare with another build's `serving`, before and after"
    )
    parser.add_argument("--folder", type=Path, default=Path(".bench"), help="models and peers' environments")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the whole report as JSON")
    parser.add_argument("--plots", type=Path, metavar="FOLDER", help="draw the report as PNG files and an HTML page")
    parser.add_argument("--markdown", type=Path, metavar="FILE", help="write the report as Markdown")
    return parser.parse_args(given)


def chosen(only: list[str], peers: bool) -> list[str]:
    """The cases that the command line asks for. Raises SystemExit for a name that fits none."""
    for wish in only:
        if not any(name.startswith(wish) for name in CASES):
            raise SystemExit(f"no case {wish!r}; there are: {', '.join(CASES)}")
    wanted = [name for name in CASES if not only or any(name.startswith(wish) for wish in only)]
    return wanted if peers else [name for name in wanted if name != "peers"]


def main() -> int:
    """Runs what was asked for."""
    # Unwinds like Ctrl-C, so that every server started here is ended.
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    options = arguments()
    names = chosen(options.only, options.peers)
    try:
        require_wrk()
    except LoadFailed as error:
        raise SystemExit(str(error)) from None
    if (os.cpu_count() or 1) < 2:
        raise SystemExit("the benchmark needs two cores: one for the server, one for the load")
    os.sched_setaffinity(0, {1})  # this process only drives: it must stay off the server's core
    report = Report(describe_machine())
    context = Context(
        folder=options.folder,
        seconds=options.duration or (1.0 if options.quick else 5.0),
        rounds=options.repeat or (1 if options.quick else 3),
        quick=options.quick,
        executable=options.executable,
        report=report,
    )
    interrupted = False
    try:
        if options.against:
            failed = attempt(context, "against", lambda: against.run(context, options.against))
        else:
            failed = measure(context, names)
    except KeyboardInterrupt:
        failed = interrupted = True
        say("interrupted: the report holds what was measured until now")
    for file in (options.json, options.markdown):
        if file:
            file.parent.mkdir(parents=True, exist_ok=True)
    if options.json:
        options.json.write_text(report.json())
    if options.markdown:
        options.markdown.write_text(report.markdown())
    if options.plots:
        try:
            plots.draw(report, options.plots)
        except plots.CannotDraw as error:
            say(f"no plots: {error}")
            failed = True
    print(report.markdown())
    return 130 if interrupted else int(failed or bool(report.missed))


def measure(context: Context, names: list[str]) -> bool:
    """Runs the cases one after the other; True when one of them could not be measured."""
    for model in (FRAUD, ENCODER):
        if any(
            name == "peers" or name.removeprefix("grpc/").startswith((model.name, "mixed", "workers")) for name in names
        ):
            limits = context.limits(model, BATCHES)
            context.report.limits[model.name] = {batch: limits.rows_per_s(batch) for batch in BATCHES}
    known = runs()
    failed = False
    for name in names:
        say(f"{name}: {CASES[name]}")
        failed |= attempt(context, name, functools.partial(known[name], context))
    return failed


def attempt(context: Context, name: str, run: Callable[[], None]) -> bool:
    """Runs one case; True, and a row with the reason, when it could not be measured."""
    try:
        run()
    except (CannotStart, LoadFailed, WrongAnswer) as error:
        context.row(Row(name, "failed", note=str(error)))
        return True
    return False


if __name__ == "__main__":
    sys.exit(main())
