"""`python -m loadtests.multi_model.churn`: loads and closes small models for ever, and looks at what it leaves behind.

Every cycle loads a model (ONNX: about 1 MB) as a worker does (`serving.runtime.loading.load`, two at once), runs it, and closes
one of those that are held, by chance. Memory, descriptors and threads must stay flat. Exits 1 otherwise.
"""

from __future__ import annotations

import argparse
import itertools
import os
import random
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from threading import Lock
from typing import Final

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

from loadtests.bench.proc import Usage, usage
from serving.contract import Container, ModelConfig
from serving.runtime import memory
from serving.runtime.loading import load
from serving.settings import Settings

KINDS: Final = ("onnx", "xgboost", "lightgbm", "sklearn")
FEATURES: Final = 30
AT_ONCE: Final = 2
HELD: Final = 32
"""Models in memory: those that stay are between those that go, which is what tears holes into a heap."""

MODELS: Final = 40
SAMPLES: Final = 10
MOST: Final = 1.03
"""Memory at the end over that of a fifth into the run, which is also what it may wander by meanwhile."""

GIVE_BACK_EVERY_S: Final = 1.0


def make(kind: str, folder: Path, seed: int) -> Path:
    """A model of that kind in a folder of its own, of a quarter to two MB; hardly two are of one size."""
    folder.mkdir(parents=True)
    return _MAKERS[kind](folder, seed)


def _onnx(folder: Path, seed: int) -> Path:
    source = np.random.default_rng(seed)
    widths = (FEATURES, *[440 + 7 * (seed % 16)] * 2, 2)
    nodes, weights, value = [], [], "x"
    for layer, (rows, columns) in enumerate(itertools.pairwise(widths)):
        weight = source.standard_normal((rows, columns), np.float32) * np.float32(np.sqrt(2 / rows))
        weights += [numpy_helper.from_array(weight, f"w{layer}"), numpy_helper.from_array(weight[0], f"b{layer}")]
        last = layer == len(widths) - 2
        nodes.append(helper.make_node("Gemm", [value, f"w{layer}", f"b{layer}"], ["y" if last else f"h{layer}"]))
        if not last:
            value = f"r{layer}"
            nodes.append(helper.make_node("Relu", [f"h{layer}"], [value]))
    source_info = helper.make_tensor_value_info("x", TensorProto.FLOAT, ["N", FEATURES])
    target_info = helper.make_tensor_value_info("y", TensorProto.FLOAT, ["N", 2])
    graph = helper.make_graph(nodes, "mlp", [source_info], [target_info], weights)
    proto = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=9)
    onnx.checker.check_model(proto)
    path = folder / "model.onnx"
    path.write_bytes(proto.SerializeToString())
    return path


def _labelled(
    seed: int,
) -> tuple[np.ndarray[tuple[int, int], np.dtype[np.float32]], np.ndarray[tuple[int], np.dtype[np.bool_]]]:
    x = np.random.default_rng(seed).standard_normal((1000, FEATURES), np.float32)
    return x, x[:, 0] * x[:, 1] + x[:, 2] > 0


def _xgboost(folder: Path, seed: int) -> Path:
    import xgboost

    x, y = _labelled(seed)
    parameters = {"objective": "binary:logistic", "max_depth": 12, "eta": 0.02, "min_child_weight": 0, "nthread": 1}
    path = folder / "xgboost-model"
    booster = xgboost.train(parameters, xgboost.DMatrix(x, y, nthread=1), 40 + seed % 16)
    path.write_bytes(booster.save_raw("ubj"))
    return path


def _lightgbm(folder: Path, seed: int) -> Path:
    import lightgbm

    x, y = _labelled(seed)
    parameters = {"objective": "binary", "num_leaves": 63, "min_data_in_leaf": 1, "num_threads": 1, "verbose": -1}
    path = folder / "model.txt"
    lightgbm.train(parameters, lightgbm.Dataset(x, y), 120 + seed % 16).save_model(path)
    return path


def _sklearn(folder: Path, seed: int) -> Path:
    import skops.io
    from sklearn.neural_network import MLPClassifier

    x, y = _labelled(seed)
    estimator = MLPClassifier((320 + seed % 16, 320), max_iter=1, random_state=seed)
    # Its warning that one round is too few would be right.
    estimator.partial_fit(x[:64], y[:64], classes=(False, True))
    path = folder / "model.skops"
    skops.io.dump(estimator, path)
    return path


_MAKERS: Final[dict[str, Callable[[Path, int], Path]]] = {
    "onnx": _onnx,
    "xgboost": _xgboost,
    "lightgbm": _lightgbm,
    "sklearn": _sklearn,
}


class Held:
    """The models in memory, of which one goes by chance for each that comes."""

    def __init__(self, most: int, seed: int) -> None:
        self._most = most
        self._random = random.Random(seed)
        self._containers: list[Container] = []
        self._lock = Lock()

    def exchange(self, container: Container) -> None:
        """Takes a model, and closes one of those before."""
        with self._lock:
            self._containers.append(container)
            if len(self._containers) <= self._most:
                return
            chosen = self._random.randrange(len(self._containers) - 1)
            self._containers[chosen], container = container, self._containers[chosen]
            self._containers.pop()
        container.close()

    def close(self) -> None:
        """Closes them all."""
        while self._containers:
            self._containers.pop().close()


def cycles(
    kind: str,
    artifacts: Sequence[Path],
    count: int,
    settings: Settings,
    config: ModelConfig | None = None,
    held: int = HELD,
    tell: Callable[[int, Usage], None] = lambda done, seen: None,
) -> list[Usage]:
    """What this process used after each tenth of so many cycles, with so many models held."""
    said = config or ModelConfig(name="churn")
    holding = Held(held, seed=count)
    row = np.zeros((1, FEATURES), np.float32)
    seen: list[Usage] = []
    given_back = time.monotonic()

    def cycle(number: int) -> None:
        container, _ = load(kind, artifacts[number % len(artifacts)], said, settings)
        container.execute([row])
        holding.exchange(container)

    with ThreadPoolExecutor(AT_ONCE, thread_name_prefix="load") as threads:
        for tenth in range(SAMPLES):
            numbers = range(count * tenth // SAMPLES, count * (tenth + 1) // SAMPLES)
            for part in range(numbers.start, numbers.stop, 100):
                list(threads.map(cycle, range(part, min(part + 100, numbers.stop))))
                if time.monotonic() > given_back + GIVE_BACK_EVERY_S:
                    memory.give_back()
                    given_back = time.monotonic()
            memory.give_back()
            now = usage(os.getpid())
            assert now is not None
            seen.append(now)
            tell(numbers.stop, now)
    holding.close()
    return seen


def grown(seen: Sequence[Usage]) -> list[str]:
    """What is larger at the end than a fifth into the run, by more than it may be."""
    found = []
    settled, end = seen[1], seen[-1]
    if end.rss_bytes > settled.rss_bytes * MOST:
        found.append(f"memory grew from {settled.rss_bytes / 1e6:.1f} to {end.rss_bytes / 1e6:.1f} MB")
    for what in ("descriptors", "threads"):
        before, after = getattr(settled, what), getattr(end, what)
        if after > before:
            found.append(f"{what} grew from {before} to {after}")
    return found


def main() -> int:
    """Makes the models, churns them, prints each tenth and the verdict."""
    parser = argparse.ArgumentParser(prog="python -m loadtests.multi_model.churn", description=__doc__)
    parser.add_argument("--cycles", type=int, default=100_000)
    parser.add_argument("--kind", choices=KINDS, default="onnx")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="serving-churn-") as folder:
        artifacts = [make(options.kind, Path(folder) / str(number), number) for number in range(MODELS)]
        size = sum(path.stat().st_size for path in artifacts) / len(artifacts)
        print(
            f"{options.cycles:,} cycles of {len(artifacts)} {options.kind} models, {size / 1e6:.2f} MB each", flush=True
        )
        began = time.monotonic()

        def tell(done: int, now: Usage) -> None:
            each_ms = (time.monotonic() - began) / done * 1e3
            print(
                f"{done:9,} cycles  {now.rss_bytes / 1e6:7.1f} MB  {now.descriptors} descriptors  {now.threads} threads  "
                f"{each_ms:.2f} ms a cycle",
                flush=True,
            )

        problems = grown(cycles(options.kind, artifacts, options.cycles, Settings(), tell=tell))
        print("; ".join(problems) or f"flat within {MOST - 1:.0%} in {time.monotonic() - began:.0f} s")
    return 1 if problems else 0


if __name__ == "__main__":
    sys.exit(main())
