"""A tree ensemble without the format that it came in, checked so that any engine may be given it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

import numpy as np

from serving.contract import Array
from serving.errors import ArtifactError

MOST_DEPTH: Final = 1_000
"""Engines walk trees by recursion when they load them: a deeper one could run out of stack."""

MOST_FEATURES: Final = 1 << 18
MOST_GROUPS: Final = 10_000
"""Bounds that real models keep far below; what a request, or a run of zeros, costs grows with them."""


@dataclass(frozen=True, slots=True)
class Forest:
    """Trees over `features` columns whose leaves add up to `groups` margins a row.

    `sizes` int64[trees] nodes of each tree, which lie one tree after the other in the arrays below; a tree's first node
    is its root. `group` int32[trees]: the margin that a tree adds to. `left`, `right` int32[nodes]: children, counted
    from their tree's first node, -1 in a leaf. `feature` int32[nodes], `threshold`, `value` (a leaf's) and `base`
    (float[groups], where the sums begin) are of one float type, in which they are added. A row goes left where
    its value is below the threshold (`strict`) or at most the threshold, and where it is NaN and `missing_left` bool[nodes].
    """

    features: int
    groups: int
    strict: bool
    sizes: Array
    group: Array
    left: Array
    right: Array
    feature: Array
    threshold: Array
    missing_left: Array
    value: Array
    base: Array


def checked(forest: Forest, where: str) -> Forest:
    """The forest without the leaves that no root leads to. Raises `ArtifactError` unless all else is a forest.

    Afterwards children are inside their tree and have one parent, no path is a cycle or longer than `MOST_DEPTH`,
    features exist, thresholds are numbers and leaves finite ones. `where` begins the messages.
    """
    check_bounds(forest.features, forest.groups, where)
    if forest.group.size and not (forest.group.min() >= 0 and forest.group.max() < forest.groups):
        raise ArtifactError(f"{where}: a tree adds to a class that is not one of its {forest.groups}")
    if not forest.sizes.all():
        raise ArtifactError(f"{where}: tree {int(np.argmin(forest.sizes))} has no node")
    ends = np.cumsum(forest.sizes)
    starts = ends - forest.sizes
    tree = np.repeat(np.arange(len(starts)), forest.sizes)
    inner = (forest.left != -1) | (forest.right != -1)
    size = forest.sizes[tree]
    for child in (forest.left, forest.right):
        if (wrong := inner & ((child < 1) | (child >= size))).any():
            node = int(np.argmax(wrong))
            raise ArtifactError(
                f"{where}: node {node - int(starts[tree[node]])} of tree {int(tree[node])} has child {int(child[node])}; "
                f"1 to {int(size[node]) - 1} were expected"
            )
    left, right = starts[tree] + forest.left, starts[tree] + forest.right
    parents = np.bincount(np.concatenate((left[inner], right[inner])), minlength=len(tree))
    if parents.size and parents.max() > 1:
        node = int(np.argmax(parents > 1))
        raise ArtifactError(
            f"{where}: node {node - int(starts[tree[node]])} of tree {int(tree[node])} has several parents; "
            "its nodes are no tree"
        )
    reached = _reached(starts, left, right, inner, where)
    if (lost := inner & ~reached).any():
        # Pruning leaves leaves behind, and nothing else.
        node = int(np.argmax(lost))
        raise ArtifactError(
            f"{where}: node {node - int(starts[tree[node]])} of tree {int(tree[node])} splits, but no root leads to it"
        )
    if inner.any() and not (forest.feature[inner].min() >= 0 and forest.feature[inner].max() < forest.features):
        wrong = inner & ((forest.feature < 0) | (forest.feature >= forest.features))
        node = int(np.argmax(wrong))
        raise ArtifactError(
            f"{where}: tree {int(tree[node])} splits on feature {int(forest.feature[node])}; "
            f"the model has {forest.features}"
        )
    if np.isnan(forest.threshold[inner]).any():
        raise ArtifactError(f"{where}: a threshold is not a number")
    if not (np.isfinite(forest.value[reached & ~inner]).all() and np.isfinite(forest.base).all()):
        raise ArtifactError(f"{where}: a leaf or the base score is not a finite number")
    return forest if reached.all() else _without(forest, reached, tree, starts)


def check_bounds(features: int, groups: int, where: str) -> None:
    """Raises `ArtifactError` for numbers of features or classes that no real model has."""
    for count, most, what in ((features, MOST_FEATURES, "features"), (groups, MOST_GROUPS, "classes or targets")):
        if not 1 <= count <= most:
            raise ArtifactError(f"{where} has {count} {what}; 1 to {most} are served")


def _reached(starts: Array, left: Array, right: Array, inner: Array, where: str) -> Array:
    """Which nodes the roots lead to, level by level; every node has at most one parent, so this ends."""
    reached = np.zeros(len(inner), bool)
    level = starts
    for _ in range(MOST_DEPTH + 1):
        reached[level] = True
        level = level[inner[level]]
        if not level.size:
            return reached
        level = np.concatenate((left[level], right[level]))
    raise ArtifactError(f"{where}: a tree is deeper than {MOST_DEPTH} levels")


def _without(forest: Forest, kept: Array, tree: Array, starts: Array) -> Forest:
    sizes = np.bincount(tree[kept], minlength=len(starts))
    number = np.cumsum(kept) - 1
    number -= (np.cumsum(sizes) - sizes)[tree]

    def renumbered(child: Array) -> Array:
        found = number[np.where(child < 0, 0, starts[tree] + child)]
        return np.where(child < 0, -1, found)[kept].astype(np.int32)

    return Forest(
        features=forest.features,
        groups=forest.groups,
        strict=forest.strict,
        sizes=sizes,
        group=forest.group,
        left=renumbered(forest.left),
        right=renumbered(forest.right),
        feature=forest.feature[kept],
        threshold=forest.threshold[kept],
        missing_left=forest.missing_left[kept],
        value=forest.value[kept],
        base=forest.base,
    )
