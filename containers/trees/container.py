"""A loaded tree model: rows to predictions by the engine that suits them, and predictions to the answers asked for."""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Final, NamedTuple

import msgspec
import numpy as np

from containers.onnx.session import shrink_arena
from containers.onnx.signature import declared
from containers.trees.engine import Engines, Predict, check_agreement, open_graph
from containers.trees.links import Link
from serving.contract import Array, Conventions, ModelConfig, ModelSpec, TensorSpec
from serving.errors import ConfigurationError

log = logging.getLogger("serving.trees")

INPUT: Final = "features"
OUTPUT: Final = "score"

ENGINES: Final = ("auto", "onnx", "native")

Answer = Callable[[Array], Sequence[Array]]
"""Predictions to the outputs of the spec."""


PIECE_ROWS: Final = 1024
"""The native libraries are half as fast again on so many rows as on the few hundred that run in a millisecond."""


class Member(NamedTuple):
    """One ensemble of trees among those that a model averages, and how each engine is opened.

    `graph` is empty where there is none for ONNX Runtime; `open_native(kind)` gives predictions of kind "margin" or
    "value". `link` is None where only the library knows it.
    """

    where: str
    graph: bytes
    link: Link | None
    open_native: Callable[[str], Predict]


class TreesContainer:
    """A loaded model; see `serving.contract.Container`."""

    def __init__(self, spec: ModelSpec, predict: Predict, answer: Answer) -> None:
        self.spec = spec
        self._predict = predict
        self._answer = answer

    def execute(self, inputs: Sequence[Array]) -> Sequence[Array]:
        """Runs one batch on the calling thread. Raises `ModelFailure` and `InvalidInput`."""
        return self._answer(self._predict(inputs[0]))

    def close(self) -> None:
        """Frees the model once the run in progress, if any, has ended."""
        self._predict = _closed
        shrink_arena()


def engine_of(config: ModelConfig, only_native: str, where: str) -> str:
    """The engine for a model: "auto", "onnx" or "native". Raises `ConfigurationError` for one that cannot run it."""
    engine = config.trees.engine
    if engine not in ENGINES:
        raise ConfigurationError(f"{where}: trees.engine is '{engine}'; one of {', '.join(ENGINES)} was expected")
    if not only_native:
        return engine
    if engine == "onnx":
        raise ConfigurationError(
            f"{where}: trees.engine is onnx, but ONNX Runtime cannot run this model: {only_native}; leave it out"
        )
    log.info("%s is served natively only, for %s", where, only_native)
    return "native"


def open_engines(
    members: Sequence[Member], engine: str, combine: Callable[[list[Array]], Array], features: int, name: str
) -> Predict:
    """Predictions by that engine; `combine` makes one prediction of those of several members."""

    def native(member: Member) -> Predict:
        if member.link is None:
            return member.open_native("value")
        return _linked(member.open_native("margin"), member.link)

    if engine == "native":
        return _together([native(member) for member in members], combine)
    margins = [open_graph(member.graph, member.where) for member in members]
    quick = _together([_linked(run, _link(member)) for run, member in zip(margins, members, strict=True)], combine)
    if engine == "onnx":
        return quick

    def open_native() -> Predict:
        found = []
        for run, member in zip(margins, members, strict=True):
            theirs = member.open_native("margin")
            check_agreement(run, theirs, features, member.where)
            found.append(_linked(theirs, _link(member)))
        return _together(found, combine)

    return Engines(quick, open_native, features, name).predict


def describe(
    artifact: Path,
    config: ModelConfig,
    features: int,
    names: tuple[str, ...],
    outputs: Sequence[TensorSpec],
    platform: str,
) -> ModelSpec:
    """The spec of a model with what the operator said of it, without conventions. Raises `ConfigurationError`."""
    said = [one.features for one in config.inputs if one.name == INPUT and one.features]
    if names and said and said[0] != names:
        raise ConfigurationError(
            f"{artifact}: the configuration's features are {', '.join(said[0])}; the model was trained with "
            f"{', '.join(names)}, in this order: leave them out"
        )
    spec = TensorSpec(name=INPUT, datatype="FP32", shape=(-1, features))
    inputs = declared("input", [spec], config.inputs, artifact)
    if names:
        inputs = (msgspec.structs.replace(inputs[0], features=names),)
    return ModelSpec(
        inputs=inputs,
        outputs=declared("output", list(outputs), config.outputs, artifact),
        platform=platform,
        batched=True,
        piece_rows=PIECE_ROWS if config.trees.engine != "onnx" else 0,
        conventions=Conventions(missing=True),
    )


def score(predict: Predict, features: int, known: ModelSpec | None) -> TensorSpec:
    """The one output of a model that predicts so, by a run of zeros unless its spec is `known`."""
    if known is not None and [tensor.shape for tensor in known.inputs] == [(-1, features)] and len(known.outputs) == 1:
        return TensorSpec(name=OUTPUT, datatype="FP32", shape=known.outputs[0].shape)
    predictions = predict(np.zeros((1, features), np.float32))
    return TensorSpec(name=OUTPUT, datatype="FP32", shape=(-1, *predictions.shape[1:]))


def alone(predictions: Array) -> Sequence[Array]:
    """The answer of a model with the one output `score`."""
    return (predictions,)


def mean(predictions: list[Array]) -> Array:
    """The mean of the members' predictions, in float32."""
    return np.asarray(np.mean(predictions, axis=0, dtype=np.float32))


def vote(predictions: list[Array]) -> Array:
    """The class that most members predict for each row, the smallest of several."""
    stacked = np.stack(predictions)
    classes = np.unique(stacked)
    votes = (stacked[None] == classes[:, None, None]).sum(axis=1)
    winners: Array = classes[votes.argmax(axis=0)]
    return winners


def _together(runs: Sequence[Predict], combine: Callable[[list[Array]], Array]) -> Predict:
    if len(runs) == 1:
        return runs[0]
    return lambda rows: combine([run(rows) for run in runs])


def _linked(margins: Predict, link: Link) -> Predict:
    return lambda rows: link(margins(rows))


def _link(member: Member) -> Link:
    assert member.link is not None, "a model with a graph has a known link"
    return member.link


def _closed(_: Array) -> Array:
    raise RuntimeError("the model is closed")
