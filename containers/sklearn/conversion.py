"""Estimators run as ONNX graphs (skl2onnx), where the operator asks for it and both answer the same."""

from __future__ import annotations

import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Final

import msgspec
import numpy as np

from containers.onnx.session import open_session, shrink_arena
from serving.contract import Array, Container, ModelConfig, ModelSpec
from serving.datatypes import BYTES
from serving.errors import ConfigurationError, MissingExtra, ModelFailure

METHODS: Final = ("predict", "predict_proba", "predict_log_proba", "decision_function", "score_samples", "transform")

CONVERTIBLE: Final = ("predict", "predict_proba", "transform")

ROWS: Final = 512
SEED: Final = 11
RTOL: Final = 1e-4
ATOL: Final = 1e-5
"""How far the two may differ: the graph works in 32 bits where scikit-learn works in 64."""


class ConvertedContainer:
    """An estimator as a graph; arrays go in as they are, and come out in the shape that the estimator gives them."""

    def __init__(self, session: Any, output: str, spec: ModelSpec) -> None:
        self.spec = spec
        self._run = session.run
        self._output = [output]
        self._input = spec.inputs[0].name
        self._flat = len(spec.outputs[0].shape) == 1
        self._text = spec.outputs[0].datatype == BYTES

    def execute(self, inputs: Sequence[Array]) -> Sequence[Array]:
        """Runs one batch; see `serving.contract.Container`."""
        try:
            (answer,) = self._run(self._output, {self._input: inputs[0]}, None)
        except Exception as error:
            raise ModelFailure(
                f"the model failed: {type(error).__name__}: {' '.join(str(error).split())[:400]}"
            ) from error
        if self._flat and answer.ndim == 2:
            answer = answer[:, 0]
        if self._text:
            texts = np.empty(answer.shape, object)
            texts[...] = [text.encode() for text in answer.tolist()]
            answer = texts
        return [answer]

    def close(self) -> None:
        """Frees the session once the run in progress, if any, has ended."""
        self._run = _closed
        shrink_arena()


def convert(estimator: Any, usual: Container, method: str, config: ModelConfig, artifact: Path) -> ConvertedContainer:
    """The estimator as a graph that answers as it does. Raises `ConfigurationError` where there is none, `MissingExtra`."""
    where = f"{artifact}: sklearn.engine is onnx, but"
    spec = usual.spec
    if len(spec.inputs) != 1 or spec.inputs[0].datatype != "FP32":
        raise ConfigurationError(f"{where} only models of one FP32 matrix are converted; leave it out")
    if method not in CONVERTIBLE:
        raise ConfigurationError(f"{where} {method} is not converted ({', '.join(CONVERTIBLE)} are); leave it out")
    try:
        from skl2onnx import to_onnx
        from skl2onnx.common.data_types import FloatTensorType
    except ImportError as error:
        raise MissingExtra(
            f"sklearn.engine onnx needs skl2onnx, which cannot be imported ({error}): pip install 'serving[sklearn]'"
        ) from error
    options = {id(estimator): {"zipmap": False}} if hasattr(estimator, "predict_proba") else None
    initial = [(spec.inputs[0].name, FloatTensorType([None, spec.inputs[0].shape[1]]))]
    try:
        graph = to_onnx(estimator, initial_types=initial, options=options)
    except Exception as error:  # whatever the converter cannot do
        said = " ".join(str(error).split())[:400]
        raise ConfigurationError(f"{where} skl2onnx cannot convert it: {said}; leave it out") from error
    with tempfile.TemporaryDirectory(prefix="serving-sklearn-") as folder:
        file = Path(folder) / "model.onnx"
        file.write_bytes(graph.SerializeToString())
        session = open_session(file, config.onnx)
    outputs = [node.name for node in session.get_outputs()]
    position = 1 if method == "predict_proba" else 0
    if position >= len(outputs):
        raise ConfigurationError(f"{where} the graph has no {method}; leave it out")
    draft = ConvertedContainer(session, outputs[position], spec)
    random = np.random.default_rng(SEED).standard_normal((ROWS, spec.inputs[0].shape[1])).astype(np.float32)
    rows = np.concatenate((random, 10 * random, np.zeros_like(random[:1])))
    (expected,), (got,) = usual.execute([rows]), draft.execute([rows])
    if difference := _difference(expected, got):
        raise ConfigurationError(f"{where} the converted model answers differently: {difference}; leave it out")
    usual.close()
    if expected.dtype.kind == "f":
        output = msgspec.structs.replace(
            spec.outputs[0], datatype={2: "FP16", 4: "FP32", 8: "FP64"}[got.dtype.itemsize]
        )
        spec = msgspec.structs.replace(spec, outputs=(output,))
    return ConvertedContainer(session, outputs[position], msgspec.structs.replace(spec, platform="sklearn_onnx"))


def _difference(expected: Array, got: Array) -> str:
    if expected.shape != got.shape:
        return f"in shape {list(got.shape)} where {list(expected.shape)} was expected"
    if expected.dtype.kind != "f":
        wrong = int((np.asarray(expected) != np.asarray(got)).reshape(len(expected), -1).any(axis=1).sum())
        same_kind = expected.dtype == got.dtype
        return "" if not wrong and same_kind else f"{wrong} of {len(expected)} random rows ({got.dtype})"
    close = np.isclose(got, expected, rtol=RTOL, atol=ATOL, equal_nan=True)
    worst = float(np.nanmax(np.abs(np.asarray(got, np.float64) - expected), initial=0.0))
    return "" if close.all() else f"by up to {worst:.3g}, more than rounding explains"


def _closed(*_: Any) -> Any:
    raise ModelFailure("the model was unloaded")
