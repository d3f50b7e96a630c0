"""Model control: what of the catalogue is to be served, and how a change of it comes into force.

In the mode `none` everything is loaded at start and stays as it is; `poll` looks at the files again and again; `explicit`
loads and unloads by name when told. A change is loaded, proved and warmed by every worker beside what it serves, and
only then wired; what cannot be loaded changes nothing, and why is told by the index, the metrics and the log.
Source: Triton's model management and its model repository extension.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Final, NamedTuple

import msgspec

from serving.contract import ModelConfig
from serving.errors import ArtifactError, BadRequest, ConfigurationError, ServingError, Unavailable
from serving.objects.catalogue import Catalogue, Entry, owners
from serving.objects.override import read_override
from serving.objects.repository import Found, ModelSource
from serving.objects.staging import Changed, Staging
from serving.objects.versions import wanted
from serving.objects.watch import Place, Watcher, inside
from serving.processes.roster import Roster
from serving.runtime.wiring import EndpointWiring, TargetsWiring, Versions
from serving.settings import Settings
from serving.telemetry.accumulators import Sample

log = logging.getLogger("serving.control")

VARIANT: Final = "AllTraffic"
MULTI_MODEL: Final = EndpointWiring(
    "multi-model", VARIANT, "", "", ModelConfig(name="multi-model"), TargetsWiring(prefix="")
)
"""What a multi-model container serves: the models that `POST /models` names, of any kind that is installed."""

EVERY_MODEL: Final = "*"
UNLOADED: Final = "unloaded"


class Failure(NamedTuple):
    """What could not be loaded, and why; `passing`: it may be another time, though its files are the same."""

    wiring: EndpointWiring
    why: str
    passing: bool = False


class IndexRow(msgspec.Struct, frozen=True, omit_defaults=True):
    """One version of a model in the repository index; a model that was never loaded has but its name."""

    name: str
    version: str = ""
    state: str = ""
    reason: str | None = None


def first(settings: Settings, catalogue: Catalogue, entries: Mapping[Place, Entry]) -> list[Entry]:
    """What is to be loaded at start. Raises a `ServingError` where that is plainly not possible.

    A server that polls starts with what can be served, so that a broken file never keeps it from starting again.
    """
    owned, others = owners(entries, {})
    names = set(owned)
    if settings.model_control_mode == "explicit":
        asked = set(settings.load_model)
        if EVERY_MODEL not in asked:
            names = asked | {name for name, entry in owned.items() if entry.place in catalogue.given}
    known = ", ".join(sorted(owned)) or "none"
    if settings.default_model is not None and settings.default_model not in owned:
        raise ConfigurationError(f"--default-model {settings.default_model} is not among the models served: {known}")
    for name in sorted(names - set(owned)):
        raise ConfigurationError(f"--load-model {name} is not among the models: {known}")
    picked = [entry for name, entry in owned.items() if name in names]
    if settings.model_control_mode != "poll":
        for error in (*(entry.error for entry in picked), *(error for entry, error in others if entry.name in names)):
            if error is not None:
                raise error
    return picked


class Control:
    """Owns what is served; every change goes through it, one at a time."""

    def __init__(
        self, settings: Settings, catalogue: Catalogue, entries: Mapping[Place, Entry], roster: Roster
    ) -> None:
        self._settings = settings
        self._catalogue = catalogue
        self._roster = roster
        self._calls: list[int] = []
        self._mode = settings.model_control_mode
        self._staging = Staging(settings.state_dir / "staged")
        self._entries = dict(entries)
        self._watcher = Watcher({place: entry.files for place, entry in entries.items()})
        self._lock = asyncio.Lock()
        self._looking = asyncio.Lock()
        self._force: dict[str, Versions] = {}
        self._settled: dict[str, Entry] = {}
        self._failed: dict[str, dict[str, Failure]] = {}
        self._unloaded: dict[str, Versions] = {}
        self._loads: dict[tuple[str, str], int] = {}
        self._unreadable = ""

    # ------------------------------------------------------------------ the modes

    async def start(self) -> None:
        """Brings the first models into force. Raises the `ServingError` of one that has to be there and cannot."""
        async with self._lock:
            picked = first(self._settings, self._catalogue, self._entries)
            await self._settle(picked, strict=self._mode != "poll")
            await self._put()
            if self._mode != "none":
                await asyncio.to_thread(self._staging.keep, self._staged())

    async def watch(self) -> None:
        """Polls for as long as the server runs."""
        while True:
            await asyncio.sleep(self._settings.repository_poll_s)
            try:
                await self.poll()
            except Unavailable:
                return  # the server is stopping
            except Exception:
                log.exception("the model repository could not be polled")

    async def poll(self) -> None:
        """One look at the files, and what follows from it."""
        async with self._lock:
            if not await asyncio.to_thread(self._refresh, stable=True):
                return
            owned, _ = self._owned()
            changed = [entry for name, entry in owned.items() if self._settled.get(name) is not entry]
            gone = [name for name in self._force if name not in owned]
            before = dict(self._force)
            await self._settle(changed, strict=False)
            for name in gone:
                log.info("model %s is gone from the repository", name)
                self._forget(name)
            if self._force != before or self._calls:
                await self._put()
            await asyncio.to_thread(self._staging.keep, self._staged())

    async def load(self, name: str, config: str | None) -> None:
        """Loads a model, or loads it again; `config` are settings, as JSON, in place of its own. Raises `BadRequest`."""
        self._refuse_unless_explicit()
        async with self._lock:
            await self._look()
            owned, _ = self._owned()
            entry = owned.get(name)
            if entry is None:
                raise BadRequest(
                    f"failed to load '{name}', failed to poll from model repository: no model there has that name"
                )
            self._failed.pop(name, None)
            try:
                if config is not None:
                    entry = await asyncio.to_thread(self._overridden, entry, config)
                await self._settle([entry], strict=True)
            except (ArtifactError, ConfigurationError) as error:
                await self._put()
                raise BadRequest(f"load failed for model '{name}': {error.message}") from error
            self._unloaded.pop(name, None)
            await self._put()
            await asyncio.to_thread(self._staging.keep, self._staged())

    async def unload(self, name: str) -> None:
        """Takes a model out of service; one that is not there is no error, as in Triton."""
        self._refuse_unless_explicit()
        async with self._lock:
            versions = self._force.get(name)
            self._forget(name)
            if versions:
                self._unloaded[name] = versions
                await self._put()
                log.info("model %s is unloaded", name)
            await asyncio.to_thread(self._staging.keep, self._staged())

    async def index(self, ready_only: bool) -> list[IndexRow]:
        """Every model that is served or could be, by name."""
        if self._mode == "explicit":
            await self._look()
        owned, others = self._owned()
        rows = [row for name in sorted({*owned, *self._force}) for row in self._rows(name, owned.get(name))]
        rows += [IndexRow(entry.name, "", "UNAVAILABLE", error.message) for entry, error in others]
        return [row for row in rows if not ready_only or row.state == "READY"]

    # ------------------------------------------------------------------ what others are told

    def samples(self) -> list[Sample]:
        """The metrics of model control."""
        samples = [
            Sample("serving_model_loads", "counter", (("model", name), ("outcome", outcome)), count)
            for (name, outcome), count in self._loads.items()
        ]
        for row in self.unavailable():
            labels = (("model", row.name), ("version", row.version))
            samples.append(Sample("serving_model_unavailable", "gauge", labels, 1))
        return samples

    def unavailable(self) -> list[IndexRow]:
        """What is on disk and cannot be served as it is there."""
        owned, others = self._owned()
        rows = [row for name in sorted(owned) for row in self._rows(name, owned[name]) if row.reason]
        rows += [IndexRow(entry.name, "", "UNAVAILABLE", error.message) for entry, error in others]
        return [row for row in rows if row.reason != UNLOADED]

    def _rows(self, name: str, entry: Entry | None) -> list[IndexRow]:
        force = {wiring.config.version: wiring for wiring in self._force.get(name, ())}
        failed = {version: failure.why for version, failure in self._failed.get(name, {}).items()}
        if entry is not None and entry.found is not None:
            failed = {version: error.message for version, error in entry.found.broken.items()} | failed
        elif entry is not None and entry.error is not None:
            if not force:
                return [IndexRow(name, "", "UNAVAILABLE", entry.error.message)]
            failed = dict.fromkeys(force, entry.error.message)
        rows = [
            IndexRow(
                name,
                version,
                "READY",
                f"its files on disk cannot be served: {failed[version]}" if version in failed else "",
            )
            for version in reversed(force)
        ]
        rows += [IndexRow(name, version, "UNAVAILABLE", why) for version, why in failed.items() if version not in force]
        if not rows:
            rows = [
                IndexRow(name, wiring.config.version, "UNAVAILABLE", UNLOADED)
                for wiring in self._unloaded.get(name, ())
            ]
        return rows or [IndexRow(name)]

    # ------------------------------------------------------------------ how a change comes into force

    async def _look(self) -> None:
        """Reads what is there at this moment; one look at a time, so that none brings an older one back."""
        async with self._looking:
            await asyncio.to_thread(self._refresh, stable=False)

    def _refresh(self, *, stable: bool) -> bool:
        """Reads what has changed on disk; with `stable`, once it has stopped to change. False where nothing can be read."""
        try:
            now = self._catalogue.scan()
        except ServingError as error:
            if error.message != self._unreadable:
                log.error("%s; what is served stays as it is", error.message)
            self._unreadable = error.message
            return False
        self._unreadable = ""
        if stable:
            changed, gone = self._watcher.observe(now)
        else:
            changed = [place for place, files in now.items() if files and not self._is_known(place, files)]
            gone = [place for place in self._entries if not now.get(place)]
        # The loop may read the old ones meanwhile.
        entries = dict(self._entries)
        for place in changed:
            entry = self._catalogue.read(place, now[place])
            old = entries.get(place)
            if entry.error is not None:
                log.error("%s", entry.error.message)
                if old is not None and old.is_model:
                    # It goes on under the name that it had, whatever its settings would say.
                    entry = msgspec.structs.replace(entry, name=old.name)
            entries[place] = entry
        for place in gone:
            entries.pop(place, None)
        self._entries = entries
        return True

    def _overridden(self, entry: Entry, config: str) -> Entry:
        """The entry with other settings, which are for the same name."""
        name = entry.name
        read = self._catalogue.read(entry.place, entry.files, read_override(config, name))
        if read.found is not None and read.found.name != name:
            raise ConfigurationError(f"the config override is for '{read.found.name}', not for '{name}'")
        return read

    def _is_known(self, place: Place, files: Any) -> bool:
        entry = self._entries.get(place)
        return entry is not None and entry.files == files

    def _owned(self) -> tuple[dict[str, Entry], list[tuple[Entry, ServingError]]]:
        return owners(self._entries, {name: entry.place for name, entry in self._settled.items()})

    async def _settle(self, entries: Sequence[Entry], *, strict: bool) -> None:
        """Prepares what the entries are to serve, older versions in place of those that fail, and plans to wire it.

        With `strict` a failure is raised, and nothing is planned.
        """
        plans: dict[str, tuple[Entry, Found, dict[str, EndpointWiring]]] = {}
        for entry in entries:
            if entry.found is None:
                if strict and entry.error is not None:
                    raise entry.error
                if entry.is_model:
                    self._settled[entry.name] = entry
                    self._count(entry.name, "failed")
                continue
            if strict:
                entry.found.served()
            on_disk = {version: self._wiring(source, entry) for version, source in entry.found.sources.items()}
            plans[entry.name] = (entry, entry.found, on_disk)
        ready: list[EndpointWiring] = []
        while True:
            chosen = {name: self._wanted(name, found, on_disk) for name, (_, found, on_disk) in plans.items()}
            new = [
                wiring
                for name, versions in chosen.items()
                for wiring in versions
                if wiring not in self._force.get(name, ()) and wiring not in ready
            ]
            if not new:
                break
            failures = await self._prepare(new, plans)
            for failure in failures:
                name, version = failure.wiring.name, failure.wiring.config.version
                self._failed.setdefault(name, {})[version] = failure
                self._count(name, "failed")
                if strict:
                    raise ConfigurationError(failure.why)
                log.error("model %s version %s cannot be served: %s", name, version, failure.why)
            ready += [wiring for wiring in new if all(failure.wiring is not wiring for failure in failures)]
        for name, versions in chosen.items():
            entry, found, on_disk = plans[name]
            self._settled[name] = entry
            failed = self._failed.get(name, {})
            self._failed[name] = {
                version: failure
                for version, failure in failed.items()
                if on_disk.get(version) == failure.wiring and not failure.passing
            }
            if versions != self._force.get(name, ()):
                self._warn(found, versions)
                self._count(name, "ok")
            if versions:
                self._force[name] = versions

    def _wanted(self, name: str, found: Found, on_disk: Mapping[str, EndpointWiring]) -> Versions:
        in_force = {wiring.config.version: wiring for wiring in self._force.get(name, ())}
        failed = {version: failure.wiring for version, failure in self._failed.get(name, {}).items()}
        return wanted(found.policy, found.versions, on_disk, in_force, failed)

    async def _prepare(
        self, new: Sequence[EndpointWiring], plans: Mapping[str, tuple[Entry, Found, Mapping[str, EndpointWiring]]]
    ) -> list[Failure]:
        """Copies and loads; gives what of it failed."""
        failures: list[Failure] = []
        copied: list[EndpointWiring] = []
        for wiring in new:
            entry, found, _ = plans[wiring.name]
            try:
                await asyncio.to_thread(self._stage, found.sources[wiring.config.version], entry)
                copied.append(wiring)
            except ServingError as error:
                failures.append(Failure(wiring, error.message, isinstance(error, Changed)))
                if isinstance(error, Changed):
                    self._watcher.again(entry.place)
        whys, calls = await self._roster.prepare(copied) if copied else ([], [])
        self._calls += calls
        for wiring, why in zip(copied, whys, strict=True):
            if why:
                source = plans[wiring.name][1].sources[wiring.config.version]
                # Told as the operator knows it, not as the copy.
                failures.append(Failure(wiring, why.replace(wiring.artifact, str(source.artifact))))
        return failures

    async def _put(self) -> None:
        endpoints = tuple(wiring for versions in self._force.values() for wiring in versions)
        default = self._settings.default_model
        if default is None and len(self._force) == 1:
            default = next(iter(self._force))
        default = default if default in self._force else None
        if self._settings.multi_model:
            endpoints, default = (*endpoints, MULTI_MODEL), MULTI_MODEL.name
        calls, self._calls = self._calls, []
        await self._roster.put_models(endpoints, default, calls)

    def _forget(self, name: str) -> None:
        for known in (self._force, self._settled, self._failed):
            known.pop(name, None)

    # ------------------------------------------------------------------ sources to wirings

    def _is_staged(self, source: ModelSource) -> bool:
        """Whether it is served from a copy: what was unpacked is one already."""
        return self._mode != "none" and source.root.is_relative_to(source.origin)

    def _wiring(self, source: ModelSource, entry: Entry) -> EndpointWiring:
        artifact = source.artifact
        if self._is_staged(source):
            base = source.root if source.root != source.artifact else source.root.parent
            artifact = self._staging.place(source.root, self._files(source, entry)) / artifact.relative_to(base)
        return EndpointWiring(source.name, VARIANT, source.container, str(artifact), source.config)

    def _stage(self, source: ModelSource, entry: Entry) -> None:
        if self._is_staged(source):
            self._staging.take(source.root, self._files(source, entry), source.artifact)

    def _files(self, source: ModelSource, entry: Entry) -> Any:
        same = source.root in (source.origin, source.artifact)
        return inside(entry.files, "" if same else source.root.relative_to(source.origin).as_posix())

    def _staged(self) -> set[Path]:
        """The copies in use."""
        directory = self._staging.directory
        artifacts = [Path(wiring.artifact) for versions in self._force.values() for wiring in versions]
        return {
            directory / artifact.relative_to(directory).parts[0]
            for artifact in artifacts
            if artifact.is_relative_to(directory)
        }

    # ------------------------------------------------------------------ small things

    def _refuse_unless_explicit(self) -> None:
        if self._mode != "explicit":
            raise Unavailable(
                "explicit model load / unload is not allowed if polling is enabled"
                if self._mode == "poll"
                else "explicit model load / unload is not allowed; start the server with --model-control-mode explicit"
            )

    def _count(self, name: str, outcome: str) -> None:
        self._loads[name, outcome] = self._loads.get((name, outcome), 0) + 1

    def _warn(self, found: Found, versions: Versions) -> None:
        served = ", ".join(wiring.config.version for wiring in versions)
        log.info("model %s serves version %s", found.name, served)
        for warning in dict.fromkeys(warning for source in found.sources.values() for warning in source.warnings):
            log.warning("%s: %s", next(iter(found.sources.values())).origin, warning)
