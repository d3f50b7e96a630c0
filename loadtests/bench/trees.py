"""XGBoost, 500 trees of depth 6 on 30 features: one row of CSV beside fraud-mlp, 1,024 rows beside the library, loading.

`python -m loadtests.bench.trees library|load FILE` is the part that runs on the server's core without any server.
"""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from time import perf_counter

import numpy as np

from loadtests.bench import servers
from loadtests.bench.compare import rate_ratio
from loadtests.bench.context import Context
from loadtests.bench.load import Load, LoadFailed, Target
from loadtests.bench.models import FRAUD, Array, BenchModel, Sample
from loadtests.bench.protocols import ENDPOINT, V2_BINARY, Protocol, Request
from loadtests.bench.rows import row
from loadtests.bench.servers import Server
from loadtests.bench.stats import ratio

TREES = BenchModel("trees", "features", "score", "FP32", seed=4)

ROUNDS = 500
DEPTH = 6
TRAINING_ROWS = 12_000
CONNECTIONS = 16
BULK_ROWS = 1024
BULK_CONNECTIONS = 2
"""So that the next request is there when one is answered."""

BULK_WARM_S = 5.0
"""Until the library has been imported and measured in the background."""

LIBRARY_S = 2.0
RUNS = 5

CONFIG = f"""\
name: {TREES.name}
container: xgboost
"""


def _csv(model: BenchModel, rows: Array) -> Request:
    lines = [",".join(str(value) for value in each) for each in rows]
    return Request(f"/endpoints/{model.name}/invocations", {"Content-Type": "text/csv"}, "\n".join(lines).encode())


CSV = Protocol("csv", _csv, "")


def write(folder: Path) -> Path:
    """The path of the booster under `folder`, trained on the first call on an invented table with missing values."""
    path = folder / TREES.name / "model.json"
    if not path.exists():
        import xgboost

        path.parent.mkdir(parents=True, exist_ok=True)
        path.with_name("model.yaml").write_text(CONFIG)
        random = np.random.default_rng(TREES.seed)
        rows = TREES.rows(TRAINING_ROWS)
        rows[random.random(rows.shape) < 0.05] = np.nan
        labels = np.nansum(rows[:, :8] * random.standard_normal(8), axis=1) + random.standard_normal(len(rows)) / 2 > 0
        parameters = {"objective": "binary:logistic", "max_depth": DEPTH, "nthread": 1, "seed": TREES.seed}
        booster = xgboost.train(parameters, xgboost.DMatrix(rows, labels), ROUNDS)
        partial = path.with_suffix(".partial")
        partial.write_bytes(bytes(booster.save_raw("json")))
        partial.rename(path)
    return path.resolve()


def run(context: Context) -> None:
    """All figures of the case."""
    path = write(context.folder / "models")
    inputs = TREES.rows(BULK_ROWS, seed=TREES.seed + 1000)
    answers = _answers(path, inputs)
    with servers.ours([context.path(FRAUD), path.parent], 1, str(context.server_core), context.executable) as server:
        loads = context.interleaved(
            FRAUD,
            (1, CONNECTIONS),
            {
                name: context.load(server, target, CONNECTIONS)
                for name, target in (
                    ("fraud-mlp", server.ask(ENDPOINT, FRAUD, context.sample(FRAUD))),
                    ("trees", server.ask(CSV, TREES, Sample(inputs[0], answers[:1]))),
                )
            },
        )
        bulk, rates = _bulk(context, server, path, inputs, answers)
    context.row(row(f"trees/c{CONNECTIONS}", f"{servers.OURS} fraud-mlp {ENDPOINT.name}", loads["fraud-mlp"]))
    context.row(row(f"trees/c{CONNECTIONS}", f"{servers.OURS} {CSV.name}", loads["trees"]))
    context.row(row(f"trees/{BULK_ROWS} rows", f"{servers.OURS} {V2_BINARY.name}", bulk))
    context.figure(
        f"trees: CSV requests/s to fraud-mlp at c{CONNECTIONS}", rate_ratio(loads["trees"], loads["fraud-mlp"])
    )
    context.figure(
        f"trees: rows/s of {BULK_ROWS} a request to inplace_predict",
        ratio([load.requests_per_s * BULK_ROWS for load in bulk], rates),
    )
    first, later = _loading(context, path)
    context.figure("trees: first load, conversion included, s", first)
    context.figure("trees: later load, s", later)


def _bulk(
    context: Context, server: Server, path: Path, inputs: Array, answers: Array
) -> tuple[list[Load], list[float]]:
    """Loads of large requests, and the library's rows per second on the same core right before and after each."""
    request = V2_BINARY.build(TREES, inputs)
    target = Target(server.port, request, V2_BINARY, answers)
    server.load(target, BULK_CONNECTIONS, 1.0, context.load_core, warm_s=BULK_WARM_S)
    loads, rates = [], []
    before = _library(context, path)
    for _ in range(1 if context.quick else RUNS):
        loads.append(server.load(target, BULK_CONNECTIONS, context.seconds, context.load_core))
        after = _library(context, path)
        rates.append((before + after) / 2)
        before = after
    return loads, rates


def _answers(path: Path, inputs: Array) -> Array:
    import xgboost

    booster = xgboost.Booster()
    booster.load_model(path)
    return np.asarray(booster.inplace_predict(inputs), np.float32)


def _library(context: Context, path: Path) -> float:
    return _measured(context, "library", path)


def _loading(context: Context, path: Path) -> tuple[float, float]:
    """Seconds to load the model in a fresh process after imports: with nothing kept beside it, and then again."""
    for kept in path.parent.glob(f".{path.name}.*.trees"):
        kept.unlink()
    return _measured(context, "load", path), _measured(context, "load", path)


def _measured(context: Context, what: str, path: Path) -> float:
    command = [
        "taskset",
        "-c",
        str(context.server_core),
        sys.executable,
        "-m",
        "loadtests.bench.trees",
        what,
        str(path),
    ]
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=120)
    if done.returncode:
        raise LoadFailed(f"{what} of {path} failed: {done.stderr.strip()[-500:]}")
    return float(done.stdout)


def library(path: Path) -> float:
    """Rows per second of the library called directly with `BULK_ROWS` rows on one thread, over two seconds."""
    import xgboost

    booster = xgboost.Booster()
    booster.load_model(path)
    booster.set_param({"nthread": 1})
    rows = TREES.rows(BULK_ROWS, seed=TREES.seed + 1000)
    booster.inplace_predict(rows)
    calls, began = 0, perf_counter()
    while (seconds := perf_counter() - began) < LIBRARY_S:
        booster.inplace_predict(rows)
        calls += 1
    return calls * BULK_ROWS / seconds


def load(path: Path) -> float:
    """Seconds to load the model."""
    import onnxruntime  # noqa: F401 - not part of what is measured

    from containers.xgboost.container import XGBoostKind
    from serving.contract import ModelConfig

    began = perf_counter()
    XGBoostKind().load(path, ModelConfig())
    return perf_counter() - began


if __name__ == "__main__":
    print({"library": library, "load": load}[sys.argv[1]](Path(sys.argv[2])))
