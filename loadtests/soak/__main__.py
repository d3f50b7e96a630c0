"""`python -m loadtests.soak`: minutes of mixed traffic over all samples, with bad clients and killed workers.

First half: every content type over the samples, the benchmark's models and a model that answers with a checksum of each
row, beside clients that dribble, vanish or read slowly; the memory, descriptors and threads of every process must stay
flat. Second half: the same while workers are killed at random; the supervisor must stay flat and the workers come back.
Every answer of both is compared with its own request. Exits 1 otherwise; `--markdown` writes the report.
"""

from __future__ import annotations

import argparse
import contextlib
import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path

from loadtests.bench import servers
from loadtests.bench.models import ENCODER, FRAUD, samples, write
from loadtests.bench.proc import Usage
from loadtests.bench.report import describe_machine
from loadtests.bench.servers import Server
from loadtests.soak import checksum, questions, verdict
from loadtests.soak.traffic import CALLERS, Traffic, Weighted

INPUTS = 64
WORKERS = 2
KILL_EVERY_S = 5.0
BACK_LIMIT_S = 20.0
SAMPLE_EVERY_S = 0.5

WEIGHTS = {"fraud": 10, "file-type": 1, "speech": 3, "speech-stream": 4}


def ask_what(server: Server, paths: dict[str, Path]) -> Weighted:
    """Everything that is asked, with how often."""
    sources = [(WEIGHTS[name], source) for name, source in questions.samples(server).items()]
    sources += [(20, questions.checksums(checksum.INLINE)), (20, questions.checksums(checksum.SLOT))]
    for weight, model in ((10, FRAUD), (5, ENCODER)):
        sources.append((weight, questions.known(model, samples(model, paths[model.name], INPUTS))))
    return sources


def watch(server: Server, seconds: float, kills: random.Random | None) -> tuple[dict[int, list[Usage]], int]:
    """Samples every process twice a second; with `kills` ends a random worker now and then. Gives samples and kills."""
    series: dict[int, list[Usage]] = {}
    killed = 0
    began = time.monotonic()
    next_kill = began + KILL_EVERY_S
    while (now := time.monotonic()) < began + seconds:
        processes = server.usage()
        for process in processes:
            series.setdefault(process.pid, []).append(process)
        workers = [process.pid for process in processes if process.parent == server.process.pid]
        if kills is not None and now >= next_kill and len(workers) >= WORKERS:
            with contextlib.suppress(ProcessLookupError):
                os.kill(kills.choice(workers), signal.SIGKILL)
                killed += 1
            next_kill = now + KILL_EVERY_S
        time.sleep(SAMPLE_EVERY_S)
    return series, killed


def alive(server: Server) -> int:
    """Workers that live now; waits for those that were killed to be replaced."""
    limit = time.monotonic() + BACK_LIMIT_S
    while (found := len(server.usage()) - 1) < WORKERS and time.monotonic() < limit:
        time.sleep(0.1)
    return found


def main() -> int:
    """Runs both halves, prints what was wrong, and writes the report."""
    parser = argparse.ArgumentParser(prog="python -m loadtests.soak", description=__doc__)
    parser.add_argument("--minutes", type=float, default=30.0)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--executable", metavar="PATH", help="the `serving` command (default: our own)")
    parser.add_argument("--folder", type=Path, default=Path(".bench"))
    parser.add_argument("--markdown", type=Path, metavar="FILE", help="write the report as Markdown")
    options = parser.parse_args()
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    executable = options.executable or str(Path(sys.executable).parent / "serving")
    paths = {model.name: write(model, options.folder / "models").resolve() for model in (FRAUD, ENCODER)}
    for name in (checksum.INLINE, checksum.SLOT):
        paths[name] = checksum.write(name, options.folder / "models").resolve()
    made = options.folder / "samples"
    subprocess.run([executable, "samples", str(made)], check=True, stdout=subprocess.DEVNULL)
    models = [*paths.values(), *(path.resolve() for path in sorted(made.iterdir()) if not path.name.startswith("."))]
    problems: list[str] = []
    lines = [f"- {label}: {text}" for label, text in describe_machine().items() if label != "how"]
    lines.append(f"- {options.minutes:g} minutes, {WORKERS} workers, {CALLERS} callers, seed {options.seed}")
    with servers.ours(models, WORKERS, "0-1", options.executable) as server:
        sources = ask_what(server, paths)
        for half, kills in enumerate((None, random.Random(options.seed)), 1):
            traffic = Traffic(server, sources, options.seed + 1000 * half)
            with traffic.running():
                series, killed = watch(server, options.minutes * 30, kills)
            judged = series if kills is None else {server.process.pid: series[server.process.pid]}
            bad = [problem for values in judged.values() for problem in verdict.grown(values)]
            # A kill costs a caller at most the request that was in flight, and the next ones while a worker is missing.
            bad += verdict.faults(traffic.seen, killed * CALLERS)
            problems += bad + (traffic.examples if bad else [])
            print(f"half {half}: {dict(traffic.seen)}, {killed} workers killed", flush=True)
            lines += ["", f"Half {half}, {killed} workers killed:", ""]
            lines += [f"- {what}: {count:,}" for what, count in sorted(traffic.seen.items())]
            lines += [f"- right by kind: {', '.join(f'{kind} {n:,}' for kind, n in sorted(traffic.kinds.items()))}", ""]
            lines += verdict.table(judged)
        if (back := alive(server)) < WORKERS:
            problems.append(f"{back} of {WORKERS} workers are alive {BACK_LIMIT_S:g} s after the last kill")
        choose = random.Random(options.seed)
        for _, source in sources:
            question = source(choose)
            status, body = servers.post(
                server.port, question.request.path, question.request.headers, question.request.body
            )
            if status != 200 or not question.right(body):
                problems.append(f"afterwards {question.kind} answered {status}: {body[:200]!r}")
    ended = "failed" if problems else "passed: answers right, nothing grew"
    lines += ["", f"The soak {ended}.", *(f"- {problem}" for problem in problems)]
    if options.markdown:
        options.markdown.write_text("\n".join(lines) + "\n")
    for problem in problems:
        print(f"BROKEN  {problem}")
    print(f"soak {ended}")
    return 1 if problems else 0


if __name__ == "__main__":
    try:
        sys.exit(main())
    except servers.CannotStart as error:
        sys.exit(str(error))
