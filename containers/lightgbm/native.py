"""The LightGBM library itself as an engine."""

from __future__ import annotations

from typing import Any

import numpy as np

from containers.lightgbm.text import Facts
from containers.trees.engine import Predict
from serving.contract import Array
from serving.errors import ArtifactError, InvalidInput, MissingExtra


def library() -> Any:
    """The lightgbm module. Raises `MissingExtra`."""
    try:
        import lightgbm
    except (ImportError, OSError) as error:
        raise MissingExtra(
            f"LightGBM's own engine needs lightgbm, which cannot be imported ({error}): pip install 'serving[lightgbm]'"
        ) from error
    return lightgbm


def open_booster(text: str, facts: Facts, kind: str, where: str) -> Predict:
    """Predictions of `kind` ("margin": float32[N, groups], or "value") on the calling thread.

    Raises `ArtifactError` and `MissingExtra`.
    """
    lightgbm = library()
    error_type = lightgbm.basic.LightGBMError
    try:
        booster = lightgbm.Booster(model_str=text)
    except error_type as error:
        raise ArtifactError(f"{where} cannot be loaded by LightGBM {lightgbm.__version__}: {error}") from error
    raw = kind == "margin"

    def predictions(rows: Array) -> Array:
        try:
            found = np.asarray(booster.predict(rows, raw_score=raw, num_threads=1), np.float32)
        except (error_type, ValueError) as error:
            raise InvalidInput(f"LightGBM refused the rows: {error}") from error
        # The library averages predictions only.
        return found.reshape(len(rows), facts.groups) / np.float32(facts.averaged) if raw else found

    return predictions
