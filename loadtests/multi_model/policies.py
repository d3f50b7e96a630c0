"""`python -m loadtests.multi_model.policies`: eviction policies compared on traces, and with what no policy can beat."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path

from loadtests.bench.plots import CannotDraw
from loadtests.multi_model import policy_plots
from loadtests.multi_model.comparison import compare, markdown
from loadtests.multi_model.traces import REQUESTS

QUICK_REQUESTS = 20_000
SWEPT = ("zipf-1.1", "mixed")
SHARES = (0.25, 0.5, 1.0, 1.5, 2.0)


def arguments(given: Sequence[str] | None = None) -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(prog="python -m loadtests.multi_model.policies", description=__doc__)
    parser.add_argument("--markdown", type=Path, metavar="FILE", help="write the tables as Markdown")
    parser.add_argument("--plots", type=Path, metavar="DIR", help="draw into this folder, as SVG")
    parser.add_argument(
        "--quick", action="store_true", help=f"{QUICK_REQUESTS:,} requests: that it works, not who is best"
    )
    parser.add_argument(
        "--processes", type=int, metavar="N", help="simulate so many at once (default: one a processor)"
    )
    return parser.parse_args(given)


def main(given: Sequence[str] | None = None) -> int:
    """Runs what was asked for."""
    options = arguments(given)
    requests = QUICK_REQUESTS if options.quick else REQUESTS
    with ProcessPoolExecutor(options.processes) as executor:
        cells = compare(executor, requests)
        swept = compare(executor, requests // 4, SWEPT, SHARES) if options.plots else []
    text = markdown(cells)
    if options.markdown:
        options.markdown.parent.mkdir(parents=True, exist_ok=True)
        options.markdown.write_text(text)
    print(text)
    if options.plots:
        try:
            for path in policy_plots.draw(cells, swept, options.plots):
                print(path)
        except CannotDraw as error:
            raise SystemExit(str(error)) from None
    return 0


if __name__ == "__main__":
    sys.exit(main())
