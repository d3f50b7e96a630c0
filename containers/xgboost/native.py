"""The XGBoost library itself as an engine: slow for one row, fast for many."""

from __future__ import annotations

import threading
from contextlib import nullcontext
from typing import Any

import numpy as np

from containers.trees.engine import Predict
from containers.xgboost.booster import Facts
from serving.contract import Array
from serving.errors import ArtifactError, InvalidInput, MissingExtra


def library() -> Any:
    """The xgboost module. Raises `MissingExtra`."""
    try:
        import xgboost
    except ImportError as error:
        raise MissingExtra(
            f"XGBoost's own engine needs xgboost, which cannot be imported ({error}): pip install 'serving[xgboost]'"
        ) from error
    return xgboost


def open_booster(document: bytes, facts: Facts, kind: str, where: str) -> Predict:
    """Predictions of `kind` ("margin": float32[N, groups], or "value") on the calling thread.

    `document` is JSON. Raises `ArtifactError` and `MissingExtra`.
    """
    xgboost = library()
    error_type = xgboost.core.XGBoostError
    booster = xgboost.Booster({"nthread": 1, "verbosity": 0})
    try:
        booster.load_model(bytearray(document))
        booster.set_param({"nthread": 1})
    except error_type as error:
        raise ArtifactError(
            f"{where} cannot be loaded by XGBoost {xgboost.__version__}: {first_line(error)}"
        ) from error

    def in_place(rows: Array) -> Any:
        return booster.inplace_predict(rows, predict_type=kind, validate_features=False)

    def linear(rows: Array) -> Any:
        matrix = xgboost.DMatrix(rows, nthread=1)
        return booster.predict(matrix, output_margin=kind == "margin", validate_features=False)

    run = linear if facts.booster == "gblinear" else in_place
    # Only trees of one weight are predicted without touching what the booster holds.
    guard = nullcontext() if facts.booster == "gbtree" else threading.Lock()

    def predictions(rows: Array) -> Array:
        try:
            with guard:
                found = np.asarray(run(rows), np.float32)
        except (error_type, ValueError) as error:
            raise InvalidInput(f"XGBoost refused the rows: {first_line(error)}") from error
        return found.reshape(len(rows), facts.groups) if kind == "margin" else found

    return predictions


def first_line(error: Exception) -> str:
    """What the library says, without its stack trace and its source lines."""
    for line in str(error).splitlines():
        text = line.partition(": ")[2] if line.startswith("[") else line
        if text.strip():
            return text.strip()
    return type(error).__name__
