"""Boosters for the tests: trained ones, and documents of random trees that no training would grow."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import xgboost

Array = np.ndarray[Any, Any]

FEATURES = 6
GRID = np.array([-2.0, -1.0, -0.5, 0.0, 0.1, 0.5, 1.0, 3.4e38, 1e-40, np.nan], np.float32)
"""Values of rows and thresholds alike, so that a value often is exactly a threshold; the last is a missing one."""

LEGACY = Path(__file__).parent / "legacy"
"""Binary models written by XGBoost 3.0, the last that could, and what it predicted for the rows of `answers.json`."""


def rows(count: int, seed: int = 1, features: int = FEATURES) -> Array:
    """Random rows with a fifth of their values missing."""
    random = np.random.default_rng(seed)
    values = random.standard_normal((count, features)).astype(np.float32)
    values[random.random(values.shape) < 0.2] = np.nan
    return values


def train(parameters: dict[str, Any], rounds: int = 12, seed: int = 2, **matrix: Any) -> xgboost.Booster:
    """A booster over `FEATURES` columns, with labels that its objective allows."""
    values = rows(300, seed)
    total = np.nansum(values * np.arange(1, FEATURES + 1), axis=1)
    objective = parameters["objective"]
    if objective.startswith("multi"):
        labels: Array = np.digitize(total, [-3, 3])
    elif objective in (
        "reg:squarederror",
        "reg:absoluteerror",
        "reg:pseudohubererror",
        "reg:quantileerror",
        "reg:linear",
    ):
        labels = total
    elif objective.startswith(("count", "reg:gamma", "reg:tweedie", "reg:squaredlogerror", "survival")):
        labels = np.abs(total).round() + 1
    else:
        labels = total > 0
    data = xgboost.DMatrix(values, labels.astype(np.float32), **matrix)
    if objective.startswith("rank"):
        data.set_group([100, 100, 100])
    if objective == "survival:aft":
        data.set_float_info("label_lower_bound", labels.astype(np.float32))
        data.set_float_info("label_upper_bound", labels.astype(np.float32))
    return xgboost.train({"max_depth": 4, "nthread": 1, "seed": seed, **parameters}, data, rounds)


def document_of(booster: xgboost.Booster) -> dict[str, Any]:
    """The JSON form of a booster, to be changed."""
    found: dict[str, Any] = json.loads(bytes(booster.save_raw("json")))
    return found


def put(path: Path, document: dict[str, Any]) -> Path:
    """Writes a document as a JSON model."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(document))
    return path


def random_document(
    seed: int, trees: int, depth: int, classes: int, objective: str, base_score: str, dart: bool
) -> dict[str, Any]:
    """A model of random trees over `FEATURES` columns of `GRID`; lopsided, with single leaves among them."""
    random = np.random.default_rng(seed)
    grown = [_random_tree(random, number, depth) for number in range(trees)]
    model = {
        "gbtree_model_param": {"num_parallel_tree": "1", "num_trees": str(trees)},
        "iteration_indptr": list(range(0, trees + 1, max(classes, 1))),
        "tree_info": [number % max(classes, 1) for number in range(trees)],
        "trees": grown,
    }
    booster: dict[str, Any] = {"name": "gbtree", "model": model}
    if dart:
        booster = {"name": "dart", "gbtree": booster, "weight_drop": random.uniform(0.1, 2, trees).round(4).tolist()}
    parameter = (
        {"softmax_multiclass_param": {"num_class": str(classes)}}
        if classes > 1
        else {"reg_loss_param": {"scale_pos_weight": "1"}}
    )
    return {
        "version": [3, 0, 0],
        "learner": {
            "attributes": {},
            "feature_names": [],
            "feature_types": [],
            "gradient_booster": booster,
            "learner_model_param": {
                "base_score": base_score,
                "boost_from_average": "1",
                "num_class": str(classes),
                "num_feature": str(FEATURES),
                "num_target": "1",
            },
            "objective": {"name": objective, **parameter},
        },
    }


def _random_tree(random: np.random.Generator, number: int, depth: int) -> dict[str, Any]:
    left, right, parents = [-1], [-1], [2147483647]
    level = [0]
    for _ in range(depth):
        following = []
        for node in level:
            if random.random() < 0.75:
                left[node], right[node] = len(left), len(left) + 1
                following += [len(left), len(left) + 1]
                left += [-1, -1]
                right += [-1, -1]
                parents += [node, node]
        level = following
    size = len(left)
    inner = np.array(left) >= 0
    numbers = np.where(inner, random.choice(GRID[:-1], size), random.uniform(-0.5, 0.5, size).astype(np.float32))
    return {
        "base_weights": [0.0] * size,
        "categories": [],
        "categories_nodes": [],
        "categories_segments": [],
        "categories_sizes": [],
        "default_left": random.integers(0, 2, size).tolist(),
        "id": number,
        "left_children": left,
        "loss_changes": [0.0] * size,
        "parents": parents,
        "right_children": right,
        "split_conditions": numbers.astype(np.float32).astype(float).tolist(),
        "split_indices": np.where(inner, random.integers(0, FEATURES, size), 0).tolist(),
        "split_type": [0] * size,
        "sum_hessian": [1.0] * size,
        "tree_param": {
            "num_deleted": "0",
            "num_feature": str(FEATURES),
            "num_nodes": str(size),
            "size_leaf_vector": "1",
        },
    }
