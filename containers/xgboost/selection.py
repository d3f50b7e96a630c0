"""SAGEMAKER_INFERENCE_OUTPUT: the outputs that SageMaker's XGBoost container lets its user choose.

Each chosen key is an output. A key that is not for the objective is NaN, as there; a word that is no key is an error here.
Numbers are float64, in which the other container computes and prints them.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Final

import numpy as np

from containers.trees.container import Answer
from serving.contract import Array, TensorSpec
from serving.errors import ConfigurationError

KEYS: Final = (
    "predicted_label",
    "labels",
    "probability",
    "probabilities",
    "raw_score",
    "raw_scores",
    "predicted_score",
)

Column = Callable[[Array], Array]


def _wide(predictions: Array) -> Array:
    return predictions.astype(np.float64)


def _pair(predictions: Array) -> Array:
    wide = _wide(predictions)
    return np.stack((1.0 - wide, wide), axis=1)


def _largest(predictions: Array) -> Array:
    return _wide(predictions.max(axis=1))


def _above(bound: float) -> Column:
    return lambda predictions: (predictions > bound).astype(np.int64)


def _winner(predictions: Array) -> Array:
    winners: Array = predictions.argmax(axis=1)
    return winners.astype(np.int64)


def _labels(count: int) -> Column:
    return lambda predictions: np.tile(np.arange(count), (len(predictions), 1))


def _nothing(predictions: Array) -> Array:
    return np.full(len(predictions), np.nan)


def _columns(objective: str, groups: int) -> dict[str, Column]:
    """What the keys mean for an objective; those that are left out do not apply."""
    raw: dict[str, Column] = {"raw_score": _wide, "raw_scores": _pair}
    two = {"labels": _labels(2), **raw}
    meanings: dict[str, dict[str, Column]] = {
        "reg:squarederror": {"predicted_score": _wide},
        "reg:logistic": {"predicted_score": _wide},
        "reg:gamma": {"predicted_score": _wide},
        "reg:absoluteerror": {"predicted_score": _wide},
        "reg:tweedie": {"predicted_score": _wide},
        "binary:logistic": {"predicted_label": _above(0.5), "probability": _wide, "probabilities": _pair, **two},
        "binary:logitraw": {"predicted_label": _above(0.0), **two},
        "binary:hinge": {"predicted_label": _wide, **two},
        "multi:softmax": {"predicted_label": _wide, "labels": _labels(groups), **raw},
        "multi:softprob": {
            "predicted_label": _winner,
            "labels": _labels(groups),
            "probability": _largest,
            "probabilities": _wide,
            "raw_score": _largest,
            "raw_scores": _wide,
        },
    }
    return meanings.get(objective, {})


def select(text: str, objective: str, groups: int) -> tuple[tuple[TensorSpec, ...], Answer]:
    """The outputs that `text`, keys parted by commas, asks for. Raises `ConfigurationError`."""
    keys = text.replace(" ", "").lower().split(",")
    for key in keys:
        if key not in KEYS or keys.count(key) > 1:
            raise ConfigurationError(
                f"SAGEMAKER_INFERENCE_OUTPUT is '{text}'; different ones of {', '.join(KEYS)} were expected"
            )
    meanings = _columns(objective, groups)
    if not meanings:
        raise ConfigurationError(f"SAGEMAKER_INFERENCE_OUTPUT cannot be had for the objective {objective}")
    columns = [meanings.get(key, _nothing) for key in keys]

    def answer(predictions: Array) -> Sequence[Array]:
        return [column(predictions) for column in columns]

    like = np.zeros((1, groups) if objective == "multi:softprob" else 1, np.float32)
    specs = tuple(_spec(key, array) for key, array in zip(keys, answer(like), strict=True))
    return specs, answer


def _spec(key: str, array: Array) -> TensorSpec:
    datatype = "INT64" if array.dtype.kind == "i" else "FP64"
    return TensorSpec(name=key, datatype=datatype, shape=(-1, *array.shape[1:]))
