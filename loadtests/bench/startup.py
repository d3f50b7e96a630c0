"""Start to ready less the time that the interpreter takes for imports, and the idle worker's resident memory."""

from __future__ import annotations

import subprocess
import sys
import time
from pathlib import Path

from loadtests.bench.context import Context
from loadtests.bench.models import FRAUD
from loadtests.bench.protocols import INVOCATIONS
from loadtests.bench.stats import mean

RUNS = 5
# What a worker cannot do without: the server, the model's runtime and the arithmetic.
WORKER_IMPORTS = "import uvicorn, starlette, httptools, uvloop, numpy, orjson, msgspec, prometheus_client, onnxruntime"
SUPERVISOR_IMPORTS = "import click, msgspec, yaml"


def run(context: Context) -> None:
    """Several starts; files are in the page cache from the first, which is not counted."""
    after_imports, resident = [], []
    for turn in range((1 if context.quick else RUNS) + 1):
        imports_s = sum(_seconds(code, context.server_core) for code in (SUPERVISOR_IMPORTS, WORKER_IMPORTS))
        with context.ours(FRAUD) as server:
            server.ask(INVOCATIONS, FRAUD, context.sample(FRAUD))
            processes = server.usage()
        if turn:
            after_imports.append(server.started_s - imports_s)
            # The worker is the largest of the tree: it alone holds the model's runtime.
            resident.append(max(process.rss_bytes for process in processes) / 1e6)
    context.figure("startup: start to ready after imports, s", mean(after_imports))
    context.figure("startup: idle worker RSS, MB", mean(resident))


def _seconds(code: str, core: int) -> float:
    began = time.perf_counter()
    subprocess.run(["taskset", "-c", str(core), sys.executable, "-c", code], check=True, cwd=Path("/"), timeout=60)
    return time.perf_counter() - began
