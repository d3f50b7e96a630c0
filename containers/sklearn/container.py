"""The scikit-learn container: loads a fitted estimator, proves what it can do, and answers with one of its methods."""

from __future__ import annotations

import importlib
import sys
import threading
import warnings
from collections.abc import Sequence
from functools import lru_cache
from pathlib import Path
from typing import Any, Final

import msgspec
import numpy as np

from containers.sklearn import artifact as artifacts
from containers.sklearn import conversion, features, proof
from containers.sklearn.artifact import PICKLES, SKOPS, plain
from containers.sklearn.features import Features
from containers.sklearn.nodes import vars_of, walk
from serving.contract import Array, Container, Conventions, ModelConfig, ModelSpec, TensorConfig, TensorSpec
from serving.datatypes import BYTES, NUMPY
from serving.errors import ArtifactError, ConfigurationError, InvalidInput, ModelFailure, ServingError

NAMES: Final = tuple(f"model{suffix}" for suffix in (SKOPS, *PICKLES))

DATATYPES: Final = {dtype: name for name, dtype in NUMPY.items() if name not in (BYTES, "BF16")}
"""What an estimator answers to the protocol's datatype; texts are BYTES."""


class _Thread(threading.local):
    limited = False


class SklearnContainer:
    """A fitted estimator. Its libraries start no threads of their own: slots are the parallelism."""

    def __init__(self, estimator: Any, method: str, reads: Features, spec: ModelSpec) -> None:
        self.spec = spec
        self._call = getattr(estimator, method)
        self._prepare = reads.prepare
        self._text = bool(spec.outputs) and spec.outputs[0].datatype == BYTES
        self._dtype = NUMPY[spec.outputs[0].datatype] if spec.outputs else None
        self._thread = _Thread()
        self._limits = _limits()

    def execute(self, inputs: Sequence[Array]) -> Sequence[Array]:
        """Runs one batch; values that the estimator does not take are an `InvalidInput`."""
        answer = self.answer(inputs)
        if self._text:
            return [_encoded(answer)]
        return [np.ascontiguousarray(answer, self._dtype)]

    def answer(self, inputs: Sequence[Array]) -> Array:
        """What the estimator answers, as it answers it. Raises `InvalidInput` and `ModelFailure`."""
        thread = self._thread
        if not thread.limited:
            # OpenMP counts the threads of each thread that uses it.
            self._limits.limit(limits=1)
            thread.limited = True
        try:
            found = self._call(self._prepare(inputs))
        except ServingError:
            raise
        except ValueError as error:
            raise InvalidInput(f"the model refuses its input: {_first_sentence(error)}") from error
        except Exception as error:
            raise ModelFailure(f"the model failed: {plain(error)}") from error
        if not hasattr(found, "toarray"):
            return np.asarray(found)
        if found.shape[1] > features.MOST_FEATURES:
            raise ModelFailure(
                f"the model answers each row with {found.shape[1]} numbers, mostly zeros, too many to send"
            )
        dense: Array = found.toarray()
        return dense

    def close(self) -> None:
        """Frees the estimator once the run in progress, if any, has ended."""
        self._call = _closed


class SklearnKind:
    """How scikit-learn models are recognised and loaded; see `serving.contract.ContainerKind`."""

    def artifact(self, path: Path) -> Path | None:
        """`path` where it is a skops file or a pickle; in a directory one called `model`, or else the only skops file."""
        if path.is_file():
            return path if path.suffix in (SKOPS, *PICKLES) else None
        for name in NAMES:
            if (path / name).is_file():
                return path / name
        found = sorted(file for file in path.glob(f"*{SKOPS}") if file.is_file() and not file.name.startswith("."))
        if len(found) > 1:
            raise ArtifactError(
                f"{path} holds {len(found)} {SKOPS} files ({', '.join(file.name for file in found)}); "
                f"name the one to serve model{SKOPS}"
            )
        return found[0] if found else None

    def load(self, artifact: Path, config: ModelConfig, known: ModelSpec | None = None) -> Container:
        """Loads an estimator, and proves whether its rows may be merged, unless that is `known`.

        Raises `ArtifactError` for a file that may not or cannot be served, `ConfigurationError` for settings that do
        not fit it, and `MissingExtra`.
        """
        estimator = artifacts.read(artifact, config.trust)
        try:
            return self._serve(estimator, artifact, config, known)
        except ServingError:
            raise
        except Exception as error:  # whatever attributes that scikit-learn never wrote lead to
            kind = type(estimator).__name__
            raise ArtifactError(f"{artifact}: its {kind} is not as scikit-learn fits one: {plain(error)}") from error

    def _serve(self, estimator: Any, artifact: Path, config: ModelConfig, known: ModelSpec | None) -> Container:
        method = config.sklearn.method
        _check_estimator(estimator, method, artifact)
        features.by_position(estimator)
        reads = features.read(estimator, config.inputs, artifact)
        _run_alone(estimator)
        # It was fitted with a data frame's names; here columns are in their order.
        warnings.filterwarnings("ignore", message="X does not have valid feature names", category=UserWarning)
        if known is not None and config.sklearn.engine == "sklearn" and _fits(known, reads, method):
            container = SklearnContainer(estimator, method, reads, known)
            if proof.runs(container.answer, reads):
                return container
        draft = SklearnContainer(estimator, method, reads, _spec(reads, (), ""))
        rows, answers, failure = proof.tried(draft.answer, reads)
        if not answers and reads.specs[0].datatype == features.FLOAT:
            reads = msgspec.structs.replace(reads, wide=True)
            draft = SklearnContainer(estimator, method, reads, draft.spec)
            rows, answers, _ = proof.tried(draft.answer, reads)
        if not answers:
            raise ArtifactError(f"{artifact}: {type(estimator).__name__}.{method} does not run: {failure}")
        why_not = proof.why_not_batched(draft.answer, rows, answers)
        asked = config.batching.max_batch_size if config.batching.merge_requests else None
        if asked is not None and asked > 1 and why_not:
            raise ConfigurationError(
                f"{artifact}: max_batch_size is {asked}, but the model cannot be batched: {why_not}; "
                "leave it out or set it to 1"
            )
        output = _output(estimator, method, answers[0], config.outputs, artifact)
        spec = _spec(reads, (output,), why_not, proof.takes_missing(draft.answer, rows[0]))
        container = SklearnContainer(estimator, method, reads, spec)
        if config.sklearn.engine == "onnx":
            return conversion.convert(estimator, container, method, config, artifact)
        return container


def _check_estimator(estimator: Any, method: str, artifact: Path) -> None:
    kind = type(estimator)
    if isinstance(estimator, type) or not hasattr(estimator, "get_params"):
        raise ArtifactError(f"{artifact} holds a {kind.__name__}; a fitted scikit-learn estimator was expected")
    from sklearn.exceptions import NotFittedError
    from sklearn.utils.validation import check_is_fitted

    try:
        check_is_fitted(estimator)
    except NotFittedError as error:
        raise ArtifactError(f"{artifact}: {kind.__name__} is not fitted; fit it before it is saved") from error
    except TypeError:
        pass  # a duck: it takes part without being one of scikit-learn's
    if not callable(getattr(estimator, method, None)):
        names = [name for name in conversion.METHODS if callable(getattr(estimator, name, None))]
        raise ConfigurationError(
            f"{artifact}: {kind.__name__} has no {method}; `sklearn: {{method: ...}}` in model.yaml may be "
            f"{', '.join(names) or 'nothing that it has'}"
        )


def _run_alone(estimator: Any) -> None:
    """Takes away what makes estimators start threads or processes for one batch."""
    for one in walk(estimator):
        if vars_of(one).get("n_jobs") not in (None, 1):
            one.n_jobs = 1
        if "_n_threads" in vars_of(one):
            one._n_threads = 1
        if vars_of(one).get("verbose"):
            one.verbose = 0


def _spec(reads: Features, outputs: tuple[TensorSpec, ...], why_not: str, missing: bool = False) -> ModelSpec:
    return ModelSpec(
        inputs=reads.specs,
        outputs=outputs,
        platform="sklearn",
        batched=not why_not,
        why_not_batched=why_not,
        conventions=Conventions(missing=missing, bare=True),
    )


def _fits(known: ModelSpec, reads: Features, method: str) -> bool:
    """Whether that spec may have been proved of an estimator that reads this, and needs no wider numbers than it says."""
    again = _spec(reads, known.outputs, known.why_not_batched, known.conventions.missing)
    return known == again and len(known.outputs) == 1 and known.outputs[0].name == method


def _output(estimator: Any, method: str, answer: Array, said: Sequence[TensorConfig], artifact: Path) -> TensorSpec:
    where = f"{artifact}: {type(estimator).__name__}.{method}"
    if answer.dtype.kind == "U" or (answer.dtype == object and all(isinstance(one, str) for one in answer.flat)):
        datatype: str | None = BYTES
    else:
        datatype = DATATYPES.get(answer.dtype)
    if datatype is None:
        raise ArtifactError(f"{where} answers with {answer.dtype}; numbers, booleans or texts can be served")
    if answer.ndim > 2 and method.startswith("predict_"):
        raise ArtifactError(f"{where} answers with an array for each of several outputs; one was expected")
    spec = TensorSpec(method, datatype, (-1, *answer.shape[1:]), labels=_labels(estimator, method, answer))
    for one in said:
        here = f"{artifact}: the configuration's output '{one.name}'"
        if one.name != method:
            raise ConfigurationError(f"{here} is not in the model, which has '{method}'")
        if one.datatype not in ("", datatype):
            raise ConfigurationError(f"{here} is {one.datatype}; the model's is {datatype}")
        if one.shape not in (None, spec.shape):
            raise ConfigurationError(f"{here} has shape {list(one.shape or ())}; the model's is {list(spec.shape)}")
        if one.labels and answer.ndim == 2 and len(one.labels) != answer.shape[1]:
            raise ConfigurationError(f"{here} has {len(one.labels)} labels; the model has {answer.shape[1]} columns")
        spec = msgspec.structs.replace(spec, features=one.features, labels=one.labels or spec.labels)
    return spec


def _labels(estimator: Any, method: str, answer: Array) -> tuple[str, ...]:
    """The classes, where each has a column."""
    if method not in ("predict_proba", "predict_log_proba", "decision_function") or answer.ndim != 2:
        return ()
    classes = getattr(estimator, "classes_", ())
    return tuple(str(name) for name in classes) if len(classes) == answer.shape[1] else ()


def _limits() -> Any:
    """What sets the threads of all libraries that are loaded now."""
    return _controller(len(sys.modules))


@lru_cache(maxsize=1)
def _controller(_: int) -> Any:
    # Finding the libraries takes milliseconds, and a library comes with a module that was not there before.
    return importlib.import_module("threadpoolctl").ThreadpoolController()


def _encoded(answer: Array) -> Array:
    texts = np.empty(answer.shape, object)
    texts.reshape(-1)[:] = [text.encode() for text in answer.reshape(-1).tolist()]
    return texts


def _first_sentence(error: ValueError) -> str:
    """What was wrong, without the advice that follows on further lines."""
    return str(error).partition("\n")[0].strip() or "ValueError"


def _closed(_: Any) -> Any:
    raise ModelFailure("the model was unloaded")
