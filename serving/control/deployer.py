"""Deployments to wirings: fetches the model data, finds the model in it, and settles how it is to be served."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Iterable, Mapping
from contextlib import asynccontextmanager
from functools import partial
from typing import TYPE_CHECKING, Final

import msgspec

from serving.control import contents, environment, plan
from serving.control.artifacts import Artifact, Artifacts, Key, remove
from serving.control.deployment import Deployment
from serving.control.plan import Plan, Source
from serving.errors import ArtifactError, ServingError
from serving.objects.archive import Limits
from serving.objects.kinds import kinds
from serving.objects.local import LocalObjects
from serving.objects.repository import ModelSource
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

    `bytes` are those of the artifact on disk, `startup_s` the longest that loading may take. A multi-model endpoint has
    no artifact of its own.
    """

    versions: Versions
    revisions: Mapping[str, str]
    bytes: int
    variant: str
    startup_s: float
    artifact: Artifact | None = None
    warnings: tuple[str, ...] = ()

    @property
    def container(self) -> str:
        """The container kind."""
        return self.versions[0].container

    def told(self, text: str) -> str:
        """A text about the model with its URL in place of local paths."""
        return text if self.artifact is None else self.artifact.told(text)


class Deployer:
    """Resolves deployments, several at a time; model data that two of them need is fetched once."""

    def __init__(self, settings: Settings, objects: ObjectStore) -> None:
        limits = Limits(max_bytes=settings.max_archive_bytes)
        self._images = settings.images
        self._allow_paths = settings.allow_paths
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
        if wanted.targets is not None:
            return await asyncio.to_thread(self._multi_model, name, wanted)
        revision = deployment.revisions.get(wanted.source.url)
        async with self._at_work():
            artifact = await self._fetch(wanted, revision)
            return await asyncio.to_thread(self._resolved, name, wanted, artifact)

    async def resolve_here(self, name: str, deployment: Deployment) -> Resolved | None:
        """The same without the object store; None where the model data is not here. Raises as `resolve` does."""
        wanted = await asyncio.to_thread(self._plan, deployment)
        if wanted.targets is not None:
            return await asyncio.to_thread(self._multi_model, name, wanted)
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
            triton = wanted.chosen.triton
            place = artifact.file
            if artifact.source.form != "object":
                place = contents.place(artifact.root, wanted.environment, triton=triton)
            warnings = contents.script_warnings(artifact.root, artifact.source.url, wanted.environment, triton=triton)
            archives = artifact.archives(self._limits)
            found = contents.look(place, name, wanted.chosen.kind, f"the image '{wanted.image}' is", archives)
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

    def _multi_model(self, name: str, wanted: Plan) -> Resolved:
        """An endpoint for which nothing is fetched, and nothing need be there yet."""
        if wanted.source.url.startswith("file:"):
            LocalObjects(self._allow_paths).check(wanted.source.url)
        config = environment.common(name, wanted.environment, wanted.chosen.kind, wanted.instances)
        wiring = EndpointWiring(name, wanted.variant, wanted.chosen.kind, "", config, wanted.targets)
        return Resolved(versions=(wiring,), revisions={}, bytes=0, variant=wanted.variant, startup_s=wanted.startup_s)


def reason(error: str) -> str:
    """An error's text as a FailureReason."""
    return error if len(error) <= MOST_REASON else f"{error[: MOST_REASON - 4]} ..."


def _wiring(source: ModelSource, name: str, wanted: Plan) -> EndpointWiring:
    config = environment.configured(source.config, wanted.environment, source.container, wanted.instances)
    return EndpointWiring(
        name, wanted.variant, source.container, str(source.artifact), msgspec.structs.replace(config, name=name)
    )
