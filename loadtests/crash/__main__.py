"""`python -m loadtests.crash`: kills supervisor and workers at random moments while their control API is at work.

Callers make, change and remove models, endpoint configs, endpoints and tags and note what was acknowledged; others ask
the endpoints. After each kill (and the start that follows the supervisor's) everything is looked at: nothing that was
acknowledged is lost, nothing half-made stays, what DescribeEndpoint says is what answers, no process is left. Exits 1
otherwise. `--seed` repeats the choice of processes and moments; `--markdown` writes the report.
"""

from __future__ import annotations

import argparse
import signal
import sys
import tempfile
from pathlib import Path

from loadtests.bench.report import describe_machine
from loadtests.bench.servers import CannotStart
from loadtests.crash.instance import Instance
from loadtests.crash.run import Run

NOT_SERVED = 2
"""Model data of each source that cannot be served."""


def arguments(given: list[str] | None = None) -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(prog="python -m loadtests.crash", description=__doc__)
    parser.add_argument("--kills", type=int, default=200)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--minutes", type=float, default=30.0, help="give up after that long (default 30)")
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--s3", action=argparse.BooleanOptionalAction, default=True, help="half of the models from S3")
    parser.add_argument("--database", metavar="URL", help="an empty postgresql:// database (default: SQLite)")
    parser.add_argument("--executable", metavar="PATH", help="the `serving` command (default: our own)")
    parser.add_argument("--folder", type=Path, metavar="DIR", help="keep everything here (default: a temporary folder)")
    parser.add_argument("--markdown", type=Path, metavar="FILE", help="write the report as Markdown")
    return parser.parse_args(given)


def main(given: list[str] | None = None) -> int:
    """Runs it and prints the report."""
    options = arguments(given)
    with tempfile.TemporaryDirectory(prefix="crash-") as temporary:
        folder = (options.folder or Path(temporary)).resolve()
        instance = Instance(folder, options.workers, options.executable, options.database, with_s3=options.s3)
        run = Run(instance, options.kills, options.seed, options.minutes * 60)
        try:
            run.run()
        except (CannotStart, TimeoutError) as error:
            run.ledger.violation(f"the run ended early: {error}")
        except KeyboardInterrupt:
            run.ledger.violation("the run was interrupted")
        finally:
            instance.end()
        lines = [f"- {name}: {value}" for name, value in describe_machine().items() if name != "how"]
        text = "\n".join([*lines, *run.report()]) + "\n"
    if options.markdown:
        options.markdown.parent.mkdir(parents=True, exist_ok=True)
        options.markdown.write_text(text)
    print(text)
    return 1 if run.ledger.violations else 0


if __name__ == "__main__":
    # Unwinds like Ctrl-C, so that every server started here is ended.
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    sys.exit(main())
