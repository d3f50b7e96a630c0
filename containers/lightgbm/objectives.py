"""What LightGBM's objectives make of margins."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Final

import numpy as np

from containers.trees import links
from containers.trees.links import Link
from serving.contract import Array

_PLAIN: Final = frozenset(
    {"regression", "regression_l1", "huber", "fair", "quantile", "mape", "lambdarank", "rank_xendcg", "custom"}
)
_EXPONENTIAL: Final = frozenset({"poisson", "gamma", "tweedie"})


def link_of(objective: Sequence[str]) -> Link | None:
    """The link of an objective line, such as `binary sigmoid:1`; None for one that is not known.

    Raises `ValueError` for parameters that it cannot have.
    """
    if not objective:
        return links.plain
    name, *words = objective
    parameters = dict(word.partition(":")[::2] for word in words)
    if name == "regression" and "sqrt" in words:
        return _signed_square
    if name in _PLAIN:
        return links.plain
    if name in _EXPONENTIAL:
        return links.exponential
    if name == "multiclass":
        return links.softmax
    if name in ("binary", "multiclassova"):
        return _steep(float(parameters.get("sigmoid", "1")))
    return {"cross_entropy": links.sigmoid, "cross_entropy_lambda": _log_exponential}.get(name)


def _steep(factor: float) -> Callable[[Array], Array]:
    if not 0 < factor < np.inf:
        raise ValueError(f"sigmoid is {factor:g}; a number above 0 was expected")
    steepness = np.float32(factor)
    return links.sigmoid if factor == 1 else lambda margins: links.sigmoid(margins * steepness)


def _signed_square(margins: Array) -> Array:
    plain = links.plain(margins)
    return np.sign(plain) * plain * plain


def _log_exponential(margins: Array) -> Array:
    return np.logaddexp(links.plain(margins).astype(np.float64), 0.0).astype(np.float32)
