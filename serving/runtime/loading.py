"""Loads models off the loop: finds the container kind, loads, proves and warms up."""

from __future__ import annotations

import logging
from contextlib import suppress
from pathlib import Path
from time import perf_counter

import numpy as np
from msgspec import structs

from serving.contract import Array, Container, ModelConfig, Trust
from serving.datatypes import BYTES, NUMPY
from serving.errors import ConfigurationError, ServingError
from serving.objects.kinds import kind
from serving.runtime.costs import Costs
from serving.runtime.model import batch_policy
from serving.settings import Settings

log = logging.getLogger("serving.loading")

_WARMUP_S = 0.4
_RUNS = 3


def load(container: str, artifact: Path, config: ModelConfig, settings: Settings) -> tuple[Container, Costs]:
    """A loaded, proved and warmed-up container with what its batches cost. Blocks; runs on a thread."""
    if config.response_cache and not settings.response_cache_bytes:
        raise ConfigurationError(
            f"model '{config.name}' asks for response_cache, and this server keeps no answers; say how many bytes each "
            "worker may keep with --response-cache-bytes, or take it out"
        )
    trust = Trust(allow_pickle=settings.allow_pickle, types=settings.trusted_types)
    loaded = kind(container).load(artifact, structs.replace(config, trust=trust))
    costs = Costs()
    try:
        policy = batch_policy(loaded.spec, config)
    except ConfigurationError:
        loaded.close()
        raise
    if config.warmup:
        warm_up(loaded, costs, policy.max_rows)
    return loaded, costs


def warm_up(container: Container, costs: Costs, max_rows: int) -> None:
    """Runs zeros through the model at each power of two, within a time budget, and learns what each size costs.

    A model that cannot run zeros (a vocabulary, a string it parses) is served all the same and learns in service.
    """
    ends = perf_counter() + _WARMUP_S
    rows = 1
    while rows <= max_rows:
        inputs = _zeros(container, rows)
        best = 0.0
        for _ in range(_RUNS):
            started = perf_counter()
            with suppress(ServingError):
                container.execute(inputs)
                seconds = perf_counter() - started
                best = min(best or seconds, seconds)
            if perf_counter() > ends:
                break
        if not best:
            log.info("the model could not be warmed up with zeros")
            return
        costs.learn(rows, best)
        # The next size costs at most twice this one's three runs.
        if perf_counter() + 2 * _RUNS * best > ends:
            return
        rows *= 2


def _zeros(container: Container, rows: int) -> list[Array]:
    arrays: list[Array] = []
    for spec in container.spec.inputs:
        shape = [size if size >= 0 else 1 for size in spec.shape]
        if container.spec.batched:
            shape[0] = rows
        filling = b"" if spec.datatype == BYTES else 0
        arrays.append(np.full(shape, filling, NUMPY[spec.datatype]))
    return arrays
