"""`python -m loadtests.onnx_cases`: ONNX's node cases by onnxruntime directly and by a real server; exits 1 where they differ."""

from __future__ import annotations

import argparse
import importlib.metadata
import signal
import sys
from pathlib import Path

from loadtests.bench.context import say
from loadtests.bench.servers import CannotStart
from loadtests.onnx_cases import collection, deployment, direct
from loadtests.onnx_cases.case import Case, Excluded, read
from loadtests.onnx_cases.collection import CannotFetch
from loadtests.onnx_cases.report import DIRECT, Report

TRANSPORTS = ("h2corn", "grpcio", "")


def arguments(given: list[str] | None = None) -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(prog="python -m loadtests.onnx_cases", description=__doc__)
    parser.add_argument("--only", metavar="WORD", default="", help="cases with this in their name")
    parser.add_argument(
        "--grpc-transport", choices=TRANSPORTS, default="h2corn", help="what carries gRPC ('': REST only)"
    )
    parser.add_argument("--folder", type=Path, default=Path(".bench/onnx-cases"), help="where the case files are kept")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the whole report as JSON")
    parser.add_argument("--markdown", type=Path, metavar="FILE", help="write the report as Markdown")
    return parser.parse_args(given)


def run(data: Path, only: str, transport: str, report: Report) -> None:
    """Asks every case that can be asked. Raises `CannotStart`."""
    cases: list[Case] = []
    for folder in collection.folders(data):
        if only not in folder.name:
            continue
        try:
            case = read(folder)
            report.wrong[case.name] = {DIRECT: direct.ask(case)}
            cases.append(case)
        except Excluded as excluded:
            report.excluded[folder.name] = str(excluded)
    say(f"{len(cases)} cases, {len(report.passed(DIRECT))} of which onnxruntime answers right")
    for number, (case, answers) in enumerate(deployment.ask(cases, transport), 1):
        report.wrong[case.name].update(answers)
        if number % deployment.PART == 0:
            say(f"{number} asked")


def main() -> int:
    """Runs what was asked for."""
    # Unwinds like Ctrl-C, so that the server is ended.
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    options = arguments()
    report = Report({name: importlib.metadata.version(name) for name in ("onnx", "onnxruntime")})
    try:
        run(collection.fetched(options.folder), options.only, options.grpc_transport, report)
    except (CannotFetch, CannotStart) as error:
        raise SystemExit(str(error)) from error
    for file, text in ((options.json, report.json()), (options.markdown, report.markdown())):
        if file:
            file.parent.mkdir(parents=True, exist_ok=True)
            file.write_text(text)
    print(report.markdown())
    return int(bool(report.differences or not report.wrong))


if __name__ == "__main__":
    sys.exit(main())
