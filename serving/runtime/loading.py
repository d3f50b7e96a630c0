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
from serving.runtime import profiles
from serving.runtime.costs import Costs
from serving.runtime.model import batch_policy
from serving.runtime.profiles import Profile
from serving.settings import Settings

log = logging.getLogger("serving.loading")

_WARMUP_S = 0.4
_RUNS = 2


_ran: set[str] = set()
"""The container kinds of which something has run in this process, so that their libraries are imported and warm."""


def load(
    container: str, artifact: Path, config: ModelConfig, settings: Settings, most_rows: int | None = None
) -> tuple[Container, Costs]:
    """A loaded, proved and warmed-up container with what its batches cost. Blocks; runs on a thread.

    What a load proves and measures is remembered beside the artifact, and a later one takes it as given. `most_rows` bounds
    the batches that it is warmed up with, where somebody waits for it; what larger ones cost is learned in service.
    """
    if config.response_cache and not settings.response_cache_bytes:
        raise ConfigurationError(
            f"model '{config.name}' asks for response_cache, and this server keeps no answers; say how many bytes each "
            "worker may keep with --response-cache-bytes, or take it out"
        )
    trust = Trust(allow_pickle=settings.allow_pickle, types=settings.trusted_types)
    trusted = structs.replace(config, trust=trust)
    place = profiles.place(container, artifact, trusted)
    profile = profiles.load(place) if place is not None else None
    # Seen before the load, so that a file that changes meanwhile is another one.
    files = profile.files if profile is not None else profiles.files(place) if place is not None else None
    loaded = kind(container).load(artifact, trusted, profile.spec if profile is not None else None)
    try:
        policy = batch_policy(loaded.spec, config)
        if profile is not None and profile.spec == loaded.spec:
            measured = profile.costs
            if config.warmup and container not in _ran:
                warm_up(loaded, 1)
        else:
            measured = warm_up(loaded, min(policy.max_rows, most_rows or policy.max_rows)) if config.warmup else ()
            if place is not None and files is not None:
                profiles.store(place, Profile(loaded.spec, measured, files))
    except BaseException:
        loaded.close()
        raise
    _ran.add(container)
    costs = Costs()
    for rows, seconds in measured:
        costs.learn(rows, seconds)
    return loaded, costs


def warm_up(container: Container, max_rows: int) -> tuple[tuple[int, float], ...]:
    """Runs zeros through the model at each power of two, within a time budget, and gives the seconds of each size.

    A model that cannot run zeros (a vocabulary, a string it parses) is served all the same and learns in service.
    """
    measured: list[tuple[int, float]] = []
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
            break
        measured.append((rows, best))
        # The next size costs at most twice this one's runs.
        if perf_counter() + 2 * _RUNS * best > ends:
            break
        rows *= 2
    return tuple(measured)


def _zeros(container: Container, rows: int) -> list[Array]:
    arrays: list[Array] = []
    for spec in container.spec.inputs:
        shape = [size if size >= 0 else 1 for size in spec.shape]
        if container.spec.batched:
            shape[0] = rows
        filling = b"" if spec.datatype == BYTES else 0
        arrays.append(np.full(shape, filling, NUMPY[spec.datatype]))
    return arrays
