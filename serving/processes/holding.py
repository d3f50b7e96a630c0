"""What a worker holds: the models that are in force, and those that are loaded to be."""

from __future__ import annotations

import asyncio
import logging
import os
from collections.abc import Callable, Iterable
from functools import partial
from pathlib import Path
from time import perf_counter
from typing import Any, Final, NamedTuple, Protocol

import msgspec
import orjson

from serving.codecs.plan import InputPlan
from serving.contract import Container, ModelConfig
from serving.errors import ServingError, UnknownName, encodable
from serving.processes.channel import Wire
from serving.runtime import memory
from serving.runtime.caching import make_model
from serving.runtime.costs import Costs
from serving.runtime.dataplane import DataPlane
from serving.runtime.inference_counts import inference_counts, lasting
from serving.runtime.loading import load
from serving.runtime.model import Model, Pulse, describe_batching
from serving.runtime.multi_model import MultiModelEndpoint
from serving.runtime.process_memory import resident
from serving.runtime.response_cache import ResponseCache
from serving.runtime.routing import Endpoint, Snapshot
from serving.runtime.statistics import ModelStatistics, VariantStatistics
from serving.runtime.targets import Source, Targets
from serving.runtime.turns import Turns, apart
from serving.runtime.wiring import EndpointWiring
from serving.settings import Settings
from serving.telemetry.accumulators import Sample
from serving.telemetry.endpoint_logs import EndpointLogger

log = logging.getLogger("serving.worker")

_LOADS_AT_ONCE: Final = 2
"""Many do not take the requests' time."""

_TARGET_HISTORY: Final = 16
"""Batches of a target that can be read about: there may be thousands of targets."""

_SLOW_S: Final = 5.0
"""One that takes longer does not count any more, so that it holds up no other."""


class Loads(Protocol):
    """Who is told of loads: of each before it begins, for it may end the process."""

    async def began(self, call: int, wiring: EndpointWiring) -> int:
        """Returns once it is told, with a number for `ended`."""

    def ended(self, load: int) -> None:
        """A load has ended, well or not."""


class Loaded(NamedTuple):
    """A model in memory, and the wiring that it was loaded for."""

    wiring: EndpointWiring
    endpoint: Endpoint


class Holding:
    """The models of one worker. Changes come one at a time; loads, two at once, beside them.

    Those of multi-model endpoints are `targets`, which come and go by themselves.
    """

    def __init__(self, plane: DataPlane, settings: Settings, loads: Loads, source: Source) -> None:
        self._plane = plane
        self._settings = settings
        self._loads = loads
        self._pulse = Pulse()
        self._cache = ResponseCache(settings.response_cache_bytes)
        self.bodies: Callable[[], int] = int
        """What the bodies of requests take of memory, in bytes."""
        self._grown: dict[Endpoint, int] = {}
        """By how much the process grew when it loaded what is no target."""
        self.targets = Targets(settings, source, self._target, beside=self._beside)
        self._multi: dict[str, MultiModelEndpoint] = {}
        self._served: dict[tuple[str, str], Loaded] = {}
        self._prepared: dict[int, Loaded | None] = {}
        """By call; None while it loads, and where something else that is kept or failed is in its place."""
        self._statistics: dict[tuple[str, str, str], VariantStatistics] = {}
        """By endpoint, variant and version; what is gone counts on among the metrics while its endpoint is there, under ""
        as the version once many others are gone, too."""
        self._batches: dict[tuple[str, str, str], ModelStatistics] = {}
        """By the same: what is loaded again counts on."""
        self._lock = asyncio.Lock()
        self._turns = Turns(_LOADS_AT_ONCE, _SLOW_S)

    async def prepare(self, call: int, wiring: EndpointWiring, *, alone: bool) -> str:
        """Loads what will be wired next, beside what is in force; gives why it could not be, or "".

        It is kept until `forget` is called with the same number, which may be while it loads. `alone`: nothing else is
        prepared meanwhile.
        """
        if wiring.targets is not None:
            return ""
        self._prepared[call] = None
        try:
            async with self._turns.turn(alone=alone):
                if self._known(wiring) is not None or call not in self._prepared:
                    return ""
                loaded = Loaded(wiring, await self._load(call, wiring))
        except Exception as error:
            return _reason(error, f"model {wiring.name} could not be loaded")
        if call in self._prepared:
            self._prepared[call] = loaded
        else:
            self._drop(loaded)
        return ""

    def forget(self, calls: Iterable[int]) -> None:
        """Drops what was prepared under these numbers and is not in force."""
        for call in calls:
            loaded = self._prepared.pop(call, None)
            if loaded is not None and self._served.get(_key(loaded.wiring)) is not loaded:
                self._drop(loaded)

    async def wire(self, wire: Wire) -> tuple[tuple[tuple[EndpointWiring, str], ...], tuple[str, ...]]:
        """Loads what is new and was not prepared, swaps the snapshot, closes what is gone.

        Gives what is missing in it and why it could not be loaded, and a line for a person on each model that is new.
        """
        async with self._lock:
            served: dict[tuple[str, str], Loaded] = {}
            missing: list[tuple[EndpointWiring, str]] = []
            multi: dict[str, MultiModelEndpoint] = {}
            for wiring in wire.endpoints:
                if wiring.targets is not None:
                    multi[wiring.name] = self._multi_model(wiring)
                    continue
                try:
                    served[_key(wiring)] = self._known(wiring) or Loaded(wiring, await self._load(0, wiring))
                except Exception as error:
                    missing.append((wiring, _reason(error, f"model {wiring.name} could not be loaded")))
            lines = [describe(loaded.endpoint) for key, loaded in served.items() if self._served.get(key) is not loaded]
            lines += [describe_multi_model(new) for name, new in multi.items() if self._multi.get(name) is not new]
            endpoints = [self._counted(loaded.endpoint) for loaded in served.values()]
            default = wire.default if wire.default in {*multi, *(endpoint.name for endpoint in endpoints)} else None
            self._plane.swap(Snapshot(wire.version, endpoints, default, self._settings.account_id, multi.values()))
            before, self._served = self._served, served
            self._change_multi_models(multi)
            held = (*served.values(), *filter(None, self._prepared.values()))
            names = {(loaded.wiring.name, loaded.wiring.variant) for loaded in held}
            names |= {(endpoint.name, endpoint.variant) for endpoint in multi.values()}
            versions = [(one.wiring.name, one.wiring.variant, one.wiring.config.version) for one in held]
            versions += [(one.name, one.variant, one.wiring.config.version) for one in multi.values()]
            self._forget_counts(names, versions)
            for key, loaded in before.items():
                if served.get(key) is not loaded:
                    self._drop(loaded)
            return tuple(missing), tuple(lines)

    async def change(self, what: str, endpoint: str, target: str) -> None:
        """Loads a target (`load`), or takes it out of memory (`unload`). Raises the `ServingError` of one that cannot be."""
        multi = self._multi.get(endpoint)
        if multi is None:
            raise UnknownName(f"there is no multi-model endpoint '{endpoint}'")
        if what == "load":
            # Whoever says so knows that what was broken is whole now.
            self.targets.copy((endpoint, target))
            await multi.load(target)
            if not multi.targets.prefix:
                # Nothing that a caller of the container contract loaded goes unless that caller says so.
                self.targets.pin((endpoint, target))
        else:
            self.targets.unload((endpoint, target), "its caller had it unloaded")

    def samples(self) -> list[Sample]:
        """The metrics of what is in force."""
        samples: list[Sample] = []
        for counted in self._statistics.values():
            samples.extend(counted.samples())
        for _, endpoint in self._served.values():
            model = endpoint.model
            samples.extend(model.samples())
            labels = (("model", model.name), ("version", model.version))
            samples.append(Sample("serving_queue_requests", "gauge", labels, model.batcher.queued))
        return samples + self.targets.reports.samples()

    def models(self, name: str | None) -> bytes:
        """JSON: all that is in force, or the last batches of one model or target (`ENDPOINT:TARGET`)."""
        endpoints = [loaded.endpoint for loaded in self._served.values()]
        if name is None:
            return msgspec.json.encode([*map(_summary, endpoints), *self.targets.reports.summaries()])
        name, _, target = name.partition(":")
        found = [one for one in endpoints if one.name == name and not target]
        if (loaded := self.targets.cache.get((name, target))) is not None:
            found.append(loaded)
        return msgspec.json.encode([row for one in found for row in one.model.records()])

    def statistics(self, name: str | None) -> bytes:
        """JSON: what was counted of all that is in memory, or of one model, target or all targets of an endpoint."""
        rows = [
            inference_counts(one.name, one.model, one.statistics, self._grown.get(one, 0))
            for _, one in self._served.values()
            if name in (None, one.name)
        ]
        for view in self.targets.cache.entries():
            # What departs has the key of what is in its place.
            if not view.loaded:
                continue
            full = ":".join(view.key)
            target = self.targets.cache.get(view.key) if name in (None, full, view.key[0]) else None
            if target is not None:
                rows.append(inference_counts(full, target.model, None, view.bytes))
        return orjson.dumps(rows)

    # ------------------------------------------------------------------ loads and drops

    async def _load(self, call: int, wiring: EndpointWiring) -> Endpoint:
        started = perf_counter()
        artifact = Path(wiring.artifact)
        number = await self._loads.began(call, wiring)
        before = resident()
        try:
            work = partial(load, wiring.container, artifact, wiring.config, self._settings)
            container, costs = await apart(work, "load")
        finally:
            self._loads.ended(number)
        model = make_model(self._cache, container, wiring.config, costs, self._pulse)
        log.info(
            "model %s version %s loaded in %.0f ms",
            wiring.name,
            model.version,
            (perf_counter() - started) * 1e3,
            extra={"endpoint": wiring.name, "variant": wiring.variant},
        )
        plan = InputPlan(container.spec, wiring.config.name)
        endpoint = Endpoint(wiring.name, wiring.variant, model, plan, self._variant(wiring))
        self._grown[endpoint] = max(resident() - before, 0)
        return endpoint

    def _target(self, container: Container, wiring: EndpointWiring, costs: Costs) -> Model:
        model = make_model(self._cache, container, wiring.config, costs, self._pulse, _TARGET_HISTORY)
        model.log = EndpointLogger(log, wiring.name)
        return model

    def _multi_model(self, wiring: EndpointWiring) -> MultiModelEndpoint:
        """The endpoint of a wiring: the one that is there where it is the same, with all its models."""
        known = self._multi.get(wiring.name)
        if known is not None and known.wiring == wiring:
            return known
        statistics = self._variant(wiring)
        counts = known.counts if known is not None and known.variant == wiring.variant else None
        return MultiModelEndpoint(wiring, statistics, self.targets, self._settings, counts)

    def _variant(self, wiring: EndpointWiring) -> VariantStatistics:
        """What counts the requests to a wiring: for all its loads the same."""
        key = (wiring.name, wiring.variant, wiring.config.version)
        return self._statistics.setdefault(key, VariantStatistics(wiring.name, wiring.variant))

    def _change_multi_models(self, multi: dict[str, MultiModelEndpoint]) -> None:
        before, self._multi = self._multi, multi
        for name, endpoint in before.items():
            if multi.get(name) is not endpoint:
                self.targets.remove(endpoint)
        for name, endpoint in multi.items():
            if before.get(name) is not endpoint:
                self.targets.add(endpoint)

    def _known(self, wiring: EndpointWiring) -> Loaded | None:
        """What is loaded for exactly this wiring."""
        found = self._served.get(_key(wiring))
        if found is not None and found.wiring == wiring:
            return found
        return next((loaded for loaded in self._prepared.values() if loaded and loaded.wiring == wiring), None)

    def _counted(self, endpoint: Endpoint) -> Endpoint:
        """The endpoint, counting on where the model that had its name and version before it stopped."""
        key = (endpoint.name, endpoint.variant, endpoint.model.version)
        endpoint.model.statistics = self._batches.setdefault(key, endpoint.model.statistics)
        return endpoint

    def _forget_counts(self, names: set[tuple[str, str]], versions: Iterable[tuple[str, str, str]]) -> None:
        """Keeps what was counted of these endpoints and variants, in these versions and the last others."""
        known, self._statistics = self._statistics, {}
        current = lasting((key for key in known if key[2]), versions)
        for key, counted in known.items():
            if key in current and key[:2] in names:
                self._statistics[key] = counted
            elif key[:2] in names:
                rest = (*key[:2], "")
                self._statistics.setdefault(rest, VariantStatistics(*key[:2])).add(counted)
        self._batches = {key: counted for key, counted in self._batches.items() if key in self._statistics}

    def _drop(self, loaded: Loaded) -> None:
        """Closes a model that no snapshot holds, once it has answered everybody, and gives its memory back."""
        loaded.endpoint.model.close(partial(self._give_back, loaded.endpoint))

    def _beside(self) -> int:
        """What this process takes of memory beside its targets, as far as is known."""
        return self._cache.bytes + self.bodies() + sum(self._grown.values())

    def _give_back(self, endpoint: Endpoint) -> None:
        self._grown.pop(endpoint, None)
        asyncio.get_running_loop().run_in_executor(None, memory.give_back)


def _key(wiring: EndpointWiring) -> tuple[str, str]:
    return wiring.name, wiring.config.version


def _reason(error: Exception, what: str) -> str:
    """Why something failed, as text that every encoding takes; the log has what is no `ServingError`."""
    if not isinstance(error, ServingError):
        log.error("%s", what, exc_info=error)
    return encodable(str(error)) or type(error).__name__


def _summary(endpoint: Endpoint) -> dict[str, Any]:
    model = endpoint.model
    return {
        "name": endpoint.name,
        "variant": endpoint.variant,
        "version": model.version,
        "platform": model.spec.platform,
        "batched": model.spec.batched,
        "why_not_batched": model.spec.why_not_batched,
        "max_batch_rows": model.batcher.policy.max_rows,
        "merges_requests": model.batcher.policy.merge,
        "slots": model.batcher.policy.slots,
        "queued_requests": model.batcher.queued,
        "queued_rows": model.batcher.queued_rows,
        "predicted_wait_us": round(model.batcher.predicted_wait(perf_counter()) * 1e6, 1),
        "batches": {f"{reason} ({mode})": count for (reason, mode), count in model.statistics.reasons.items()},
        "response_cache": model.cached(),
        "pid": os.getpid(),
    }


def describe(endpoint: Endpoint) -> str:
    """One line for a person: what an endpoint takes and how it is batched."""
    spec = endpoint.model.spec
    inputs = ", ".join(f"{tensor.name} {tensor.datatype}{_shape(tensor.shape)}" for tensor in spec.inputs)
    outputs = ", ".join(f"{tensor.name} {tensor.datatype}{_shape(tensor.shape)}" for tensor in spec.outputs)
    batching = describe_batching(spec, endpoint.model.batcher.policy)
    version = "" if endpoint.model.version == ModelConfig().version else f" version {endpoint.model.version}"
    return f"{endpoint.name}{version}: {inputs} -> {outputs}; {batching}"


def describe_multi_model(endpoint: MultiModelEndpoint) -> str:
    """One line for a person: where the models of an endpoint are."""
    where = endpoint.targets.prefix
    return f"{endpoint.name}: any model below {where}" if where else f"{endpoint.name}: what POST /models names"


def _shape(shape: tuple[int, ...]) -> str:
    return "[" + ",".join("N" if size < 0 else str(size) for size in shape) + "]"
