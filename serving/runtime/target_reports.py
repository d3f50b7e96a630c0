"""What is told of one worker's targets: metrics, the states of the model repository's index, and `GET /debug/models`."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Mapping
from time import perf_counter
from typing import TYPE_CHECKING, Any

from serving.runtime.cache_entry import EntryView
from serving.runtime.cache_events import Event
from serving.runtime.model_cache import ModelCache
from serving.runtime.routing import Endpoint
from serving.telemetry.accumulators import Sample

if TYPE_CHECKING:
    from serving.runtime.multi_model import MultiModelEndpoint

Key = tuple[str, str]


class TargetReports:
    """Reads the cache and the endpoints by name; changes nothing."""

    def __init__(
        self, cache: ModelCache[Key, Any, Endpoint, Any], endpoints: Mapping[str, MultiModelEndpoint], eviction: str
    ) -> None:
        self._cache = cache
        self._endpoints = endpoints
        self._eviction = eviction

    def samples(self) -> list[Sample]:
        """The metrics of all targets."""
        if not self._endpoints:
            return []
        loaded = Counter(view.key[0] for view in self._cache.entries() if view.loaded)
        samples = [
            sample
            for name, endpoint in self._endpoints.items()
            for sample in endpoint.counts.samples(endpoint.statistics.invocations, loaded[name])
        ]
        stats, pid = self._cache.stats, (("pid", str(os.getpid())),)
        samples += [
            Sample("serving_model_cache_budget_bytes", "gauge", pid, self._cache.budget.bytes),
            Sample("serving_model_cache_held_bytes", "gauge", pid, self._cache.budget.held),
            Sample("serving_model_cache_residual_bytes", "gauge", pid, self._cache.budget.residual),
            Sample("serving_model_cache_evicted_bytes", "counter", (), stats.evicted_bytes),
        ]
        for name, counts in (("refused", stats.refused), ("unloaded", stats.unloaded)):
            for cause, count in counts.items():
                samples.append(Sample(f"serving_model_cache_{name}", "counter", (("cause", cause),), count))
        return samples

    def states(self) -> list[dict[str, Any]]:
        """Each target that is in memory or known to be broken, as the model repository's index has it."""
        return [
            {
                "name": f"{view.key[0]}:{view.key[1]}",
                "state": "READY" if view.loaded else "UNAVAILABLE",
                "reason": "" if view.loaded else view.reason or view.state,
            }
            for view in self._cache.entries()
            if view.state != "missing"
        ]

    def summaries(self) -> list[dict[str, Any]]:
        """Each endpoint with its targets, and what came and went last, for `GET /debug/models`."""
        now = perf_counter()
        targets: dict[str, list[dict[str, Any]]] = {name: [] for name in self._endpoints}
        for view in self._cache.entries():
            if view.key[0] in targets:
                targets[view.key[0]].append(_shown(view, self._cache.get(view.key), now))
        events: dict[str, list[dict[str, Any]]] = {name: [] for name in self._endpoints}
        for event in reversed(self._cache.events(0)):
            if event.key[0] in events:
                events[event.key[0]].append(_told(event, now))
        return [
            {
                "name": name,
                "variant": endpoint.variant,
                "multi_model": True,
                "prefix": endpoint.targets.prefix,
                "eviction": self._eviction,
                "budget_bytes": self._cache.budget.bytes,
                "held_bytes": self._cache.budget.held,
                "residual_bytes": self._cache.budget.residual,
                "loaded": sum(target["state"] == "READY" for target in targets[name]),
                "targets": targets[name],
                "events": events[name],
                "pid": os.getpid(),
            }
            for name, endpoint in self._endpoints.items()
        ]


def _shown(view: EntryView[Key], endpoint: Endpoint | None, now: float) -> dict[str, Any]:
    shown: dict[str, Any] = {
        "target": view.key[1],
        "state": "READY" if view.loaded else view.state,
        "doing": view.doing,
        "reason": view.reason,
        "bytes": view.bytes,
        "revision": view.revision,
        "pinned": view.pinned,
        "in_use": view.in_use,
        "waiting": view.waiting,
        "refused": view.refused,
        "for_s": round(now - view.since, 3) if view.since else 0.0,
    }
    if endpoint is not None:
        model = endpoint.model
        shown |= {
            "version": model.version,
            "platform": model.spec.platform,
            "batched": model.spec.batched,
            "why_not_batched": model.spec.why_not_batched,
            "batches": {f"{reason} ({mode})": count for (reason, mode), count in model.statistics.reasons.items()},
            "response_cache": model.cached(),
        }
    return shown


def _told(event: Event[Key], now: float) -> dict[str, Any]:
    return {
        "what": event.what,
        "target": event.key[1],
        "reason": event.reason,
        "bytes": event.bytes,
        "seconds": round(event.seconds, 6),
        "locating_s": round(event.locating_s, 6),
        "waited_s": round(event.waited_s, 6),
        "callers": event.callers,
        "ended_s_ago": round(now - event.when, 3),
    }
