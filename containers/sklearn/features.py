"""What a fitted estimator reads: one matrix, one text a row, or columns of numbers and of texts side by side."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any, Final

import msgspec
import numpy as np

from containers.sklearn.nodes import vars_of, walk
from serving.contract import Array, TensorConfig, TensorSpec
from serving.datatypes import BYTES
from serving.errors import ArtifactError, ConfigurationError, InvalidInput

NAME: Final = "x"
"""The only input, where there is only one."""

FLOAT: Final = "FP32"
"""What SageMaker's scikit-learn container makes of JSON and CSV."""

MOST_FEATURES: Final = 1 << 20
"""What one row may take, whatever number stands in a file."""

DATATYPES: Final = ("FP32", "FP64", "INT32", "INT64", "UINT8", "BOOL", BYTES)


class Features(msgspec.Struct, frozen=True):
    """The inputs of an estimator.

    `texts`: for each feature, texts that it was fitted with, None where it is a number. `whole`: a row is one text.
    `wide`: the estimator takes 64 bits alone, which FP32 is made into.
    """

    specs: tuple[TensorSpec, ...]
    texts: tuple[Sequence[str] | None, ...]
    whole: bool = False
    wide: bool = False

    def prepare(self, inputs: Sequence[Array]) -> Any:
        """The inputs of a batch as the estimator takes them. Raises `InvalidInput` for text that is not UTF-8."""
        if len(inputs) == 1:
            if self.specs[0].datatype == BYTES:
                return _text(inputs[0], self.specs[0].name)
            return inputs[0].astype(np.float64) if self.wide else inputs[0]
        table = np.empty((len(inputs[0]), len(inputs)), object)
        for position, (array, spec) in enumerate(zip(inputs, self.specs, strict=True)):
            table[:, position] = _text(array[:, 0], spec.name) if spec.datatype == BYTES else array[:, 0]
        return table


def read(estimator: Any, said: Sequence[TensorConfig], artifact: Path) -> Features:
    """The inputs of a fitted estimator, with what the operator said of them.

    Raises `ArtifactError` where it is not fitted, and `ConfigurationError`.
    """
    if _reads_documents(estimator):
        return Features(
            _declared((TensorSpec(NAME, BYTES, (-1,)),), said, artifact), (_documents(estimator),), whole=True
        )
    count = getattr(estimator, "n_features_in_", None)
    if not isinstance(count, int) or count < 1:
        raise ArtifactError(
            f"{artifact}: {type(estimator).__name__} does not know how many features it takes (n_features_in_); was it "
            "fitted before it was saved?"
        )
    if count > MOST_FEATURES:
        raise ArtifactError(f"{artifact}: n_features_in_ is {count}; up to {MOST_FEATURES} features can be served")
    names = tuple(str(name) for name in getattr(estimator, "feature_names_in_", ()))
    texts = _texts(estimator, count)
    known = sum(values is not None for values in texts)
    if 0 < known < count:
        columns = names or tuple(f"{NAME}{position}" for position in range(count))
        specs = tuple(
            TensorSpec(name, FLOAT if values is None else BYTES, (-1, 1))
            for name, values in zip(columns, texts, strict=True)
        )
    else:
        specs = (TensorSpec(NAME, BYTES if known else FLOAT, (-1, count), features=names),)
    return Features(_declared(specs, said, artifact), texts)


def by_position(estimator: Any) -> None:
    """Makes column transformers that were fitted with a data frame find their columns in a matrix, by position."""
    for one in walk(estimator):
        names = list(vars_of(one).get("feature_names_in_", ()))
        if names and "transformers_" in vars_of(one):
            one.transformers_ = [
                (name, transformer, _positions(columns, names)) for name, transformer, columns in one.transformers_
            ]


def _positions(columns: Any, names: list[str]) -> Any:
    if isinstance(columns, str):
        return names.index(columns)
    if isinstance(columns, slice) and (isinstance(columns.start, str) or isinstance(columns.stop, str)):
        # As in a data frame, a slice by names includes its end.
        start = None if columns.start is None else names.index(columns.start)
        return slice(start, None if columns.stop is None else names.index(columns.stop) + 1, columns.step)
    if isinstance(columns, list | tuple | np.ndarray) and len(columns) and isinstance(columns[0], str):
        return [names.index(column) for column in columns]
    return columns


def _reads_documents(estimator: Any) -> bool:
    """Whether its first step takes texts apart, as the vectorisers do."""
    steps = vars_of(estimator).get("steps")
    first = estimator
    while steps:
        first = steps[0][1]
        steps = vars_of(first).get("steps")
    union = vars_of(first).get("transformer_list")
    if union:
        return all(_reads_documents(transformer) for _, transformer in union)
    return hasattr(first, "build_analyzer")


def _documents(estimator: Any) -> Sequence[str]:
    """An empty text, and two of words that it counts: without any, rows would not tell each other apart."""
    for one in walk(estimator):
        if words := [str(word) for word in vars_of(one).get("vocabulary_", ())][:3]:
            return "", words[-1], " ".join(words)
    return "", "a word", "another word"


def _texts(estimator: Any, count: int) -> tuple[Sequence[str] | None, ...]:
    """For each feature the texts that an encoder of it was fitted with; None where it takes numbers."""
    found: list[Sequence[str] | None] = [None] * count
    first = estimator
    while steps := vars_of(first).get("steps"):
        first = steps[0][1]
    if "transformers_" in vars_of(first):
        for _, transformer, columns in first.transformers_:
            positions = np.atleast_1d(np.arange(count)[columns]).tolist()
            if _reads_documents(transformer):
                inner: Sequence[Sequence[str] | None] = [_documents(transformer)] * len(positions)
            else:
                inner = _texts(transformer, len(positions))
            for position, texts in zip(positions, inner, strict=True):
                found[position] = texts or found[position]
        return tuple(found)
    # An imputer leaves its columns where they are, so the encoder after it tells what they hold.
    for one in [first, *(step for _, step in vars_of(estimator).get("steps") or ())]:
        categories = vars_of(one).get("categories_")
        if categories is not None and len(categories) == count:
            return tuple(_strings(values) for values in categories)
    return tuple(found)


def _strings(values: Any) -> Sequence[str] | None:
    strings = [value for value in np.asarray(values).tolist() if isinstance(value, str)]
    return strings or None


def _text(array: Array, name: str) -> Array:
    texts = np.empty(array.shape, object)
    try:
        texts.reshape(-1)[:] = [element.decode() for element in array.reshape(-1).tolist()]
    except UnicodeDecodeError as error:
        raise InvalidInput(f"input '{name}' holds bytes that are not UTF-8; a model of text was asked") from error
    return texts


def _declared(specs: tuple[TensorSpec, ...], said: Sequence[TensorConfig], artifact: Path) -> tuple[TensorSpec, ...]:
    """`specs` with what the operator said: another datatype, names of features; a shape must be the estimator's."""
    by_name = {spec.name: spec for spec in specs}
    for one in said:
        spec, where = by_name.get(one.name), f"{artifact}: the configuration's input '{one.name}'"
        if spec is None:
            raise ConfigurationError(f"{where} is not in the model, which has {', '.join(map(repr, by_name))}")
        datatype = one.datatype or spec.datatype
        if datatype not in DATATYPES:
            raise ConfigurationError(f"{where} is {datatype}; one of {', '.join(DATATYPES)} was expected")
        if one.shape not in (None, spec.shape):
            raise ConfigurationError(f"{where} has shape {list(one.shape or ())}; the model's is {list(spec.shape)}")
        if one.features and len(one.features) != spec.shape[-1]:
            raise ConfigurationError(
                f"{where} has {len(one.features)} features; the model has {spec.shape[-1]} columns"
            )
        by_name[one.name] = msgspec.structs.replace(spec, datatype=datatype, features=one.features or spec.features)
    return tuple(by_name[spec.name] for spec in specs)
