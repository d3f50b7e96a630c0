"""Which engine runs a batch: ONNX Runtime, quick for a few rows, or the library that grew the trees, quick for many."""

from __future__ import annotations

import logging
import threading
import weakref
from collections.abc import Callable
from time import perf_counter, thread_time
from typing import Final

import numpy as np

from containers.onnx.session import plain, runtime, share_arena
from containers.trees.graph import INPUT, OUTPUT
from serving.contract import Array
from serving.errors import ArtifactError, ModelFailure, ServingError

log = logging.getLogger("serving.trees")

Predict = Callable[[Array], Array]
"""float32[N, features] to predictions or margins, one a row."""

LARGE_ROWS: Final = 32
"""From here on another engine may pay; where exactly is measured."""

WORTH_S: Final = 0.6
"""What large batches must have cost before the library is imported: about what importing it costs, and more than the
warm-up of a model may take, so that it never happens before the model is served."""

SIZES: Final = (32, 64, 128, 256, 512, 1024)
"""Rows of the runs that are timed."""

RUNS: Final = 3
GAIN: Final = 0.95
"""The share of the other's time below which an engine counts as faster."""

MOST_S: Final = 0.1
"""A timed run that takes longer ends the measurement: all larger batches go the same way."""

ROUNDING: Final = 1e-5
"""Difference between the engines' margins, absolute up to 1 and relative beyond, that the order of additions explains."""

SEED: Final = 11

NEVER: Final = 1 << 62


def open_graph(graph: bytes, where: str) -> Predict:
    """Margins by ONNX Runtime on the calling thread. Raises `ArtifactError` and `MissingExtra`."""
    ort = runtime()
    options = ort.SessionOptions()
    options.intra_op_num_threads = options.inter_op_num_threads = 1
    options.log_severity_level = 4
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    share_arena(ort, options)
    try:
        session = ort.InferenceSession(graph, options, providers=["CPUExecutionProvider"])
    except Exception as error:
        raise ArtifactError(f"{where} cannot be loaded by ONNX Runtime {ort.__version__}: {plain(error)}") from error
    run, outputs = session.run, [OUTPUT]

    def margins(rows: Array) -> Array:
        try:
            found: Array = run(outputs, {INPUT: rows}, None)[0]
        except Exception as error:
            raise ModelFailure(f"the model failed while it ran: {plain(error)}") from error
        return found

    return margins


class Engines:
    """Predictions of a model by the engine that is faster for the number of rows.

    `predict` is `quick` until large batches have cost `worth_s` seconds; then `open_native` is called once on a thread of
    its own, both are timed and compared, and from `native_from` rows on (`NEVER`: not at all) the library runs.
    """

    def __init__(
        self, quick: Predict, open_native: Callable[[], Predict], features: int, name: str, worth_s: float = WORTH_S
    ) -> None:
        self._quick = quick
        self._features = features
        self._native = quick
        self._open_native = open_native
        self._name = name
        self._worth_s = worth_s
        self._spent_s = 0.0
        self._lock = threading.Lock()
        self._look_from = LARGE_ROWS
        self.native_from = NEVER
        self.opening: threading.Thread | None = None
        """The thread that opens and measures the library, once it was started."""

    def predict(self, rows: Array) -> Array:
        """Runs one batch. Raises `ModelFailure` and `InvalidInput`."""
        if len(rows) < self._look_from:
            return self._quick(rows)
        if len(rows) >= self.native_from:
            return self._native(rows)
        started = perf_counter()
        predictions = self._quick(rows)
        self._spend(perf_counter() - started)
        return predictions

    def _spend(self, seconds: float) -> None:
        with self._lock:
            self._spent_s += seconds
            if self._spent_s < self._worth_s or self.opening is not None:
                return
            self._look_from = NEVER
            # It does not hold the model, which may be closed meanwhile.
            said = weakref.ref(self), self._open_native, self._quick, self._features, self._name
            self.opening = threading.Thread(target=_open, args=said, name=f"{self._name}-native", daemon=True)
            self.opening.start()

    def opened(self, native: Predict, found: int) -> None:
        """The library is there, and quicker from so many rows on."""
        self._native = native
        self.native_from = self._look_from = found


def _open(
    engines: weakref.ref[Engines], open_native: Callable[[], Predict], quick: Predict, features: int, name: str
) -> None:
    try:
        native = open_native()
        found = crossover(quick, native, features) if engines() is not None else NEVER
    except ServingError as error:
        if engines() is not None:
            log.warning("model %s stays with ONNX Runtime for large batches: %s", name, error)
    except BaseException:
        log.exception("model %s stays with ONNX Runtime for large batches", name)
    else:
        if (there := engines()) is not None:
            size = "no size" if found == NEVER else f"{found} rows and more"
            log.info("model %s runs batches of %s natively", name, size)
            there.opened(native, found)


def crossover(quick: Predict, native: Predict, features: int) -> int:
    """The least of `SIZES` from which on the second engine is the faster one; `NEVER` where it is not at the largest."""
    found = NEVER
    for size in SIZES:
        rows = sample(size, features)
        seconds = [_best(engine, rows) for engine in (quick, native)]
        if seconds[1] >= seconds[0] * GAIN:
            found = NEVER
        elif found == NEVER:
            found = size
        if max(seconds) > MOST_S:
            break
    return found


def _best(engine: Predict, rows: Array) -> float:
    """Seconds of processor time, which batches in service at the same time do not prolong."""
    best = float("inf")
    for _ in range(RUNS):
        started = thread_time()
        engine(rows)
        best = min(best, thread_time() - started)
    return best


def sample(rows: int, features: int) -> Array:
    """Random rows, float32, a few of their values missing."""
    random = np.random.default_rng(SEED)
    values = random.standard_normal((rows, features), np.float32)
    values[random.random((rows, features), np.float32) < 0.05] = np.nan
    return values


def check_agreement(one: Predict, other: Predict, features: int, where: str) -> None:
    """Raises `ArtifactError` where the margins of two engines differ by more than rounding."""
    rows = sample(SIZES[0], features)
    mine, theirs = one(rows), other(rows)
    if not np.allclose(mine, theirs, rtol=ROUNDING, atol=ROUNDING):
        raise ArtifactError(
            f"{where}: ONNX Runtime and the library that made the model differ by {np.abs(mine - theirs).max():g} for "
            "the same row"
        )
