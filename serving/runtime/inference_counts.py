"""What was counted of one model, as Triton's statistics extension tells it.

Where this server measures something else than Triton, the nearest is told: `compute_infer` is the run itself;
`compute_input` what else passes between leaving the queue and the end of the run (joining inputs, the way to a thread);
`compute_output` what lies outside both (decoding, encoding, sending). Runs that failed are among neither executions nor
batches, and of batches by size only the run is timed. Answers from the response cache are counted, but not timed. A target
shares the counters of its endpoint with all others, so that its own times are those of its batches, each request waiting as
long as its batch's first, and what was refused before the queue is not among its failures.
Source: Triton's statistics extension.
"""

from __future__ import annotations

from collections.abc import Iterable
from time import perf_counter, time
from typing import TYPE_CHECKING, Any, Final, TypeVar

if TYPE_CHECKING:
    from serving.runtime.model import Model
    from serving.runtime.statistics import VariantStatistics

_Key = TypeVar("_Key", bound=tuple[str, ...])

_NS: Final = 1e9

_MOST_GONE: Final = 16
"""Versions of a model that are not served any more and still counted by themselves."""


def inference_counts(name: str, model: Model, counted: VariantStatistics | None, memory_bytes: int) -> dict[str, Any]:
    """One row of `model_stats`; `counted` are the requests of this model alone, None where others are among them."""
    batches = model.statistics
    cached = model.cached() or {"hits": 0, "misses": 0}
    hits = cached["hits"]
    compute_s = batches.compute_s - batches.failed_compute_s
    ended = batches.ended
    streams = 0
    if counted is None:
        runs = max(batches.requests - batches.failed_requests - batches.pieces, 0)
        success = _duration(runs + hits, batches.queue_s - batches.failed_queue_s + compute_s)
        fail = _duration(batches.failed_requests + batches.expired, 0.0)
        queue = _duration(runs + hits, batches.queue_s - batches.failed_queue_s)
        compute_input = _duration(runs, 0.0)
        compute_output = _duration(runs, 0.0)
    else:
        answered = sum(counted.latency.counts)
        parts = counted.streams
        streams = max(sum(parts.seconds.counts) - parts.broken, 0)
        runs = max(answered - hits, 0)
        ended = max(ended, parts.ended)
        success = _duration(answered + streams, counted.latency.total + parts.seconds.total - parts.broken_s)
        fail = _duration(
            counted.errors_4xx + counted.errors_5xx + parts.broken,
            counted.failed_s + counted.refusal.total + parts.broken_s,
        )
        queue = _duration(answered, counted.queue.total)
        compute_input = _duration(runs, counted.model_latency.total - counted.queue.total - compute_s)
        compute_output = _duration(runs, counted.overhead_latency.total)
    succeeded = batches.succeeded()
    return {
        "name": name,
        "version": model.version,
        "last_inference": _epoch_ms(ended),
        "inference_count": max(batches.rows - batches.failed_rows, 0) + streams,
        "execution_count": sum(count for _, count, _ in succeeded) + streams,
        "inference_stats": {
            "success": success,
            "fail": fail,
            "queue": queue,
            "compute_input": compute_input,
            "compute_infer": _duration(runs, compute_s),
            "compute_output": compute_output,
            "cache_hit": _duration(hits, 0.0),
            "cache_miss": _duration(cached["misses"], 0.0),
        },
        "batch_stats": [
            {
                "batch_size": rows,
                "compute_input": _duration(count, 0.0),
                "compute_infer": _duration(count, seconds),
                "compute_output": _duration(count, 0.0),
            }
            for rows, count, seconds in succeeded
        ],
        "memory_usage": [{"type": "CPU", "id": 0, "byte_size": memory_bytes}] if memory_bytes else [],
        "response_stats": {},
    }


def merge(rows: Iterable[dict[str, Any]]) -> list[dict[str, Any]]:
    """Rows of several workers added up by name and version, in the order in which they are first met."""
    merged: dict[tuple[str, str], dict[str, Any]] = {}
    for row in rows:
        key = (row["name"], row["version"])
        merged[key] = row if key not in merged else _sum(merged[key], row)
    return list(merged.values())


def lasting(keys: Iterable[_Key], served: Iterable[_Key]) -> set[_Key]:
    """Which are worth keeping, of keys that end with a version and are in the order of their age: what is served, and
    of each model the last others."""
    kept = set(served)
    gone: dict[tuple[str, ...], list[_Key]] = {}
    for key in keys:
        if key not in kept:
            gone.setdefault(key[:-1], []).append(key)
    return kept.union(*(others[-_MOST_GONE:] for others in gone.values()))


def _sum(one: dict[str, Any], other: dict[str, Any]) -> dict[str, Any]:
    return {
        **one,
        "last_inference": max(one["last_inference"], other["last_inference"]),
        "inference_count": one["inference_count"] + other["inference_count"],
        "execution_count": one["execution_count"] + other["execution_count"],
        "inference_stats": _sums(one["inference_stats"], other["inference_stats"]),
        "batch_stats": _listed(one["batch_stats"], other["batch_stats"], ("batch_size",)),
        "memory_usage": _listed(one["memory_usage"], other["memory_usage"], ("type", "id")),
    }


def _listed(one: list[dict[str, Any]], other: list[dict[str, Any]], keys: tuple[str, ...]) -> list[dict[str, Any]]:
    """Entries of both lists, those of equal `keys` added up, in the order of these."""
    found: dict[tuple[Any, ...], dict[str, Any]] = {}
    for entry in (*one, *other):
        key = tuple(entry[name] for name in keys)
        values = {name: value for name, value in entry.items() if name not in keys}
        found[key] = _sums(found[key], values) if key in found else values
    return [{**dict(zip(keys, key, strict=True)), **found[key]} for key in sorted(found)]


def _sums(one: dict[str, Any], other: dict[str, Any]) -> dict[str, Any]:
    """Numbers of equal names added up, inside objects too."""
    return {
        name: _sums(value, other[name]) if isinstance(value, dict) else value + other[name]
        for name, value in one.items()
    }


def _duration(count: int, seconds: float) -> dict[str, int]:
    return {"count": count, "ns": max(round(seconds * _NS), 0)}


def _epoch_ms(moment: float) -> int:
    """Milliseconds since 1970 of a moment of `time.perf_counter`; 0 for one that never was."""
    return round((time() - perf_counter() + moment) * 1e3) if moment else 0
