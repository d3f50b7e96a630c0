"""What XGBoost's objectives make of margins, and which margin a base score stands for."""

from __future__ import annotations

import math
from typing import Final

import numpy as np

from containers.trees import links
from containers.trees.links import Link

LINKS: Final[dict[str, Link]] = {
    "reg:squarederror": links.plain,
    "reg:linear": links.plain,
    "reg:squaredlogerror": links.plain,
    "reg:absoluteerror": links.plain,
    "reg:pseudohubererror": links.plain,
    "reg:quantileerror": links.plain,
    "rank:pairwise": links.plain,
    "rank:ndcg": links.plain,
    "rank:map": links.plain,
    "binary:logitraw": links.plain,
    "binary:hinge": links.positive,
    "binary:logistic": links.sigmoid,
    "reg:logistic": links.sigmoid,
    "count:poisson": links.exponential,
    "reg:gamma": links.exponential,
    "reg:tweedie": links.exponential,
    "survival:cox": links.exponential,
    "survival:aft": links.exponential,
    "multi:softprob": links.softmax,
    "multi:softmax": links.best,
}
"""Every objective that is known; of others the library itself has to be asked."""

LABELS: Final = frozenset({"binary:hinge", "multi:softmax"})
"""Objectives that predict a class: an ensemble of them votes."""

_LOGIT: Final = frozenset({"binary:logistic", "reg:logistic"})
_LOG: Final = frozenset(name for name, link in LINKS.items() if link is links.exponential)


def margin(objective: str, base_score: float) -> float:
    """The margin of a base score. Raises `ValueError` for one that the objective cannot have."""
    score = float(np.float32(base_score))
    if objective in _LOGIT:
        if not 0 < score < 1:
            raise ValueError(f"the base score of {objective} is {base_score:g}; a number between 0 and 1 was expected")
        # As the library does: in float32, step by step.
        return -math.log(float(np.float32(1) / np.float32(score) - np.float32(1)))
    if objective in _LOG:
        if not score > 0:
            raise ValueError(f"the base score of {objective} is {base_score:g}; a number above 0 was expected")
        return math.log(score)
    return base_score


def score(objective: str, base_margin: float) -> float:
    """The base score of a margin; the inverse of `margin`."""
    if objective in _LOGIT:
        return 1 / (1 + math.exp(-max(base_margin, -80.0)))
    return math.exp(min(base_margin, 80.0)) if objective in _LOG else base_margin
