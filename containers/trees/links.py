"""From margins to predictions: the last step of every tree ensemble, the same for all engines.

Exponentials are taken in float64 and rounded once, which is what the C library's float32 ones come to, and numpy's
vectorised ones do not: predictions are to print like those of the libraries themselves.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Final

import numpy as np

from serving.contract import Array

Link = Callable[[Array], Array]
"""float32[N, groups] margins to float32[N] or float32[N, groups] predictions."""

_MOST_EXPONENT: Final = np.float32(88.7)
"""Beyond it, one plus the exponential is no float32 any more."""

_ONE: Final = np.float32(1)


def plain(margins: Array) -> Array:
    """The margins; one column as [N]."""
    return margins[:, 0] if margins.shape[1] == 1 else margins


def sigmoid(margins: Array) -> Array:
    """1 / (1 + exp(-margin))."""
    predictions = _exp(np.minimum(-plain(margins), _MOST_EXPONENT))
    predictions += _ONE
    return np.reciprocal(predictions, predictions)


def exponential(margins: Array) -> Array:
    """exp(margin); infinite where that is no float32."""
    return _exp(plain(margins))


def positive(margins: Array) -> Array:
    """1 where the margin is above 0, else 0."""
    return (plain(margins) > 0).astype(np.float32)


def softmax(margins: Array) -> Array:
    """A share for each class; a row's shares add up to 1."""
    shares = _exp(margins - margins.max(axis=1, keepdims=True))
    shares /= shares.sum(axis=1, keepdims=True, dtype=np.float64).astype(np.float32)
    return shares


def best(margins: Array) -> Array:
    """The number of the class with the largest margin, the first of several."""
    winners: Array = margins.argmax(axis=1)
    return winners.astype(np.float32)


def _exp(exponents: Array) -> Array:
    with np.errstate(over="ignore"):
        found: Array = np.exp(exponents.astype(np.float64))
        return found.astype(np.float32)
