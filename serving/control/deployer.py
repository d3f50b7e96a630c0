"""Deployments to wirings: fetches the model data, finds the model in it, and settles how it is to be served."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Iterable, Mapping
from contextlib import asynccontextmanager
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Final

import msgspec

from serving.contract import ModelConfig
from serving.control import environment, plan
from serving.control.artifacts import Artifact, Artifacts, Key, remove
from serving.control.deployment import Deployment
from serving.control.plan import Plan, Source
from serving.errors import ArtifactError, ConfigurationError, ServingError
from serving.objects import pbtxt, repository
from serving.objects.archive import Archives, Limits
from serving.objects.configuration import read_model_yaml
from serving.objects.kinds import kinds
from serving.objects.pbtxt import TritonModel
from serving.objects.repository import Found, ModelSource
from serving.runtime.turns import Turns, apart
from serving.runtime.wiring import EndpointWiring, Versions
from serving.settings import Settings

if TYPE_CHECKING:
    from serving.objects.store import ObjectStore

FETCHES: Final = 16
"""Artifacts that are fetched at a time; they mostly wait."""

SLOW_S: Final = 60.0
"""What takes longer to be fetched does not count any more, so that it holds up no other."""

_LATER_S: Final = 1.0

MOST_REASON: Final = 1024
"""Characters of a FailureReason."""


class Resolved(msgspec.Struct, frozen=True):
    """A deployment that can be loaded: what each worker is to serve, and the revision of each model data URL.

    `bytes` are those of the artifact on disk, `startup_s` the longest that loading may take.
    """

    versions: Versions
    revisions: Mapping[str, str]
    bytes: int
    variant: str
    startup_s: float
    artifact: Artifact
    warnings: tuple[str, ...] = ()

    @property
    def container(self) -> str:
        """The container kind."""
        return self.versions[0].container

    def told(self, text: str) -> str:
        """A text about the model with its URL in place of local paths."""
        return self.artifact.told(text)


class Deployer:
    """Resolves deployments, several at a time; model data that two of them need is fetched once."""

    def __init__(self, settings: Settings, objects: ObjectStore) -> None:
        limits = Limits(max_bytes=settings.max_archive_bytes)
        self._images = settings.images
        self._artifacts = Artifacts(settings.state_dir / "artifacts", objects, limits)
        self._limits = limits
        self._turns = Turns(FETCHES, SLOW_S)
        self._fetches: dict[tuple[Source, str | None], asyncio.Future[Artifact]] = {}
        self._resolving = 0
        self._quiet = asyncio.Event()
        self._quiet.set()

    async def resolve(self, name: str, deployment: Deployment) -> Resolved:
        """What the endpoint `name` is to serve, its model data fetched unless it is here.

        Raises `ArtifactError`, `ConfigurationError` or `MissingExtra`, in the user's words.
        """
        wanted = await asyncio.to_thread(self._plan, deployment)
        revision = deployment.revisions.get(wanted.source.url)
        async with self._at_work():
            artifact = await self._fetch(wanted, revision)
            return await asyncio.to_thread(self._resolved, name, wanted, artifact)

    async def resolve_here(self, name: str, deployment: Deployment) -> Resolved | None:
        """The same without the object store; None where the model data is not here. Raises as `resolve` does."""
        wanted = await asyncio.to_thread(self._plan, deployment)
        revision = deployment.revisions.get(wanted.source.url)
        if revision is None:
            return None
        async with self._at_work():
            artifact = await asyncio.to_thread(self._artifacts.have, wanted.source, revision)
            if artifact is None:
                return None
            return await asyncio.to_thread(self._resolved, name, wanted, artifact)

    async def keep(self, deployments: Iterable[Deployment], further: Iterable[Key] = ()) -> bool:
        """Removes all model data but what these need; False where nothing was done, since something is being resolved."""
        if self._resolving or not self._quiet.is_set():
            return False
        used = {
            (source, revision)
            for deployment in deployments
            for source in plan.sources(deployment)
            if (revision := deployment.revisions.get(source.url)) is not None
        }
        used.update(further)
        self._quiet.clear()
        try:
            taken = await asyncio.to_thread(self._artifacts.keep, used)
        finally:
            self._quiet.set()
        await asyncio.to_thread(remove, taken)
        return True

    # ------------------------------------------------------------------ model data

    async def _fetch(self, wanted: Plan, revision: str | None) -> Artifact:
        """One fetch for all who want the same; one who leaves takes nobody's away."""
        key = (wanted.source, revision)
        fetch = self._fetches.get(key)
        if fetch is None:
            # A thread that nobody waits for any more ends a little later.
            limit_s = wanted.download_s + _LATER_S
            work = partial(self._artifacts.fetch, wanted.source, revision, limit_s)
            fetch = asyncio.ensure_future(self._in_turn(work))
            self._fetches[key] = fetch
            self._resolving += 1
            fetch.add_done_callback(lambda done: self._fetched(key, done))
        try:
            async with asyncio.timeout(wanted.download_s):
                return await asyncio.shield(fetch)
        except TimeoutError as error:
            raise ArtifactError(
                f"{wanted.source.url} could not be fetched within {wanted.download_s:g} s "
                "(ModelDataDownloadTimeoutInSeconds)"
            ) from error

    async def _in_turn(self, work: Callable[[], Artifact]) -> Artifact:
        """What the end of the process leaves half-made does not count."""
        async with self._turns.turn():
            return await apart(work, "fetch")

    def _fetched(self, key: tuple[Source, str | None], done: asyncio.Future[Artifact]) -> None:
        self._fetches.pop(key, None)
        self._resolving -= 1
        if not done.cancelled():
            # Whoever waited was told; if nobody did, nobody misses it.
            done.exception()

    @asynccontextmanager
    async def _at_work(self) -> AsyncIterator[None]:
        """Keeps `keep` away, which may take away what this needs."""
        while not self._quiet.is_set():
            await self._quiet.wait()
        self._resolving += 1
        try:
            yield
        finally:
            self._resolving -= 1

    # ------------------------------------------------------------------ the model in it; on a thread

    def _plan(self, deployment: Deployment) -> Plan:
        # The first to ask for the kinds imports them.
        return plan.plan(deployment, self._images, kinds())

    def _resolved(self, name: str, wanted: Plan, artifact: Artifact) -> Resolved:
        try:
            place = _place(wanted, artifact)
            warnings = _script_warnings(wanted, artifact)
            found = _look(place, name, wanted, artifact.archives(self._limits))
            sources = found.served()
            versions = tuple(_wiring(source, name, wanted) for source in sources)
        except ServingError as error:
            raise type(error)(artifact.told(error.message)) from error
        except OSError as error:
            raise ArtifactError(
                f"{artifact.source.url} cannot be read on the server's disk: {error.strerror or error}"
            ) from error
        return Resolved(
            versions=versions,
            revisions={artifact.source.url: artifact.revision},
            bytes=artifact.bytes,
            variant=wanted.variant,
            startup_s=wanted.startup_s,
            artifact=artifact,
            warnings=(*warnings, *dict.fromkeys(warning for source in sources for warning in source.warnings)),
        )


def reason(error: str) -> str:
    """An error's text as a FailureReason."""
    return error if len(error) <= MOST_REASON else f"{error[: MOST_REASON - 4]} ..."


def _look(place: Path, name: str, wanted: Plan, archives: Archives) -> Found:
    """The model, for the kind that the image is for. Raises `ConfigurationError` where it is for another."""
    kind = wanted.chosen.kind
    if not kind:
        return repository.look(place, name, archives)
    override = _settings(place)
    said = override.config.container
    override = msgspec.structs.replace(override, config=msgspec.structs.replace(override.config, container=kind))
    try:
        if said not in ("", kind):
            raise ConfigurationError(f"{place}: its settings name the container {said}")
        return repository.look(place, name, archives, override)
    except (ArtifactError, ConfigurationError) as error:
        if (other := said or _kind(place, archives)) not in ("", kind):
            raise ConfigurationError(
                f"the image '{wanted.image}' is for {kind} models, but {place} is a model for {other}"
            ) from error
        raise


def _kind(place: Path, archives: Archives) -> str:
    """The kind that would serve what is there; "" for none, or several."""
    try:
        return repository.look(place, "model", archives).served()[0].container
    except ServingError:
        return ""


def _place(wanted: Plan, artifact: Artifact) -> Path:
    """The folder or file of the model: what was fetched, or the one folder in it that is a model."""
    root = artifact.root
    named = wanted.environment.get(environment.TRITON_MODEL, "") if wanted.chosen.triton else ""
    if named:
        models = sorted(path.name for path in root.iterdir() if path.is_dir())
        if named not in models:
            raise ArtifactError(
                f"{root} has no folder '{named}', which {environment.TRITON_MODEL} names; it has {', '.join(models) or 'none'}"
            )
        return root / named
    if artifact.source.form == "object":
        return artifact.file
    if repository.is_model(root) or (root / repository.PACKED).is_file():
        return root
    inside = sorted(path for path in root.iterdir() if path.is_dir() and repository.is_model(path))
    if len(inside) > 1:
        hint = f"; say which with {environment.TRITON_MODEL}" if wanted.chosen.triton else ""
        names = ", ".join(path.name for path in inside[:20])
        raise ArtifactError(f"{root} holds {len(inside)} models ({names}); one was expected{hint}")
    return inside[0] if inside else root


def _script_warnings(wanted: Plan, artifact: Artifact) -> tuple[str, ...]:
    """What is said of scripts that are not there. Raises `ConfigurationError` for one that is."""
    script = environment.script(wanted.environment)
    usual = environment.USUAL_PROGRAM
    if script is None:
        if wanted.chosen.triton or not (artifact.root / "code" / usual).is_file():
            return ()
        return (f"{artifact.source.url} holds code/{usual}, which is not run: {environment.PROGRAM} does not name it",)
    if (artifact.root / script.path).is_file():
        raise ConfigurationError(
            f"{artifact.source.url} holds {script.path}, which {environment.PROGRAM} names: inference scripts are not built "
            "yet; deploy the model without entry_point"
        )
    return (
        f"{environment.PROGRAM} names {script.program}, which is not in {artifact.source.url}; the model is served without",
    )


def _settings(place: Path) -> TritonModel:
    """What lies beside the model about it, as `repository.look` would read it."""
    folder = place if place.is_dir() else place.parent
    yaml_file, pbtxt_file = folder / repository.MODEL_YAML, folder / repository.CONFIG_PBTXT
    if yaml_file.is_file() and pbtxt_file.is_file():
        raise ConfigurationError(
            f"{place} holds both {repository.MODEL_YAML} and {repository.CONFIG_PBTXT}; keep the one that is right"
        )
    if pbtxt_file.is_file():
        return pbtxt.read(pbtxt_file)
    if yaml_file.is_file():
        return TritonModel(config=read_model_yaml(yaml_file), filename="", warnings=())
    return TritonModel(config=ModelConfig(), filename="", warnings=())


def _wiring(source: ModelSource, name: str, wanted: Plan) -> EndpointWiring:
    config = environment.configured(source.config, wanted.environment, source.container, wanted.instances)
    return EndpointWiring(
        name, wanted.variant, source.container, str(source.artifact), msgspec.structs.replace(config, name=name)
    )
