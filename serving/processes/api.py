"""The control API of a server: its store, its operations and its reconciler, put together beside the workers' start."""

from __future__ import annotations

import asyncio
import logging
import shlex
from time import monotonic
from typing import TYPE_CHECKING, Final

from serving.control.call import Answer, Request
from serving.control.refusal import refusal
from serving.errors import InternalError, MissingExtra, ServingError, UnknownOperation
from serving.processes.presence import Presence
from serving.processes.targets import Artifacts
from serving.runtime.wiring import Fleet
from serving.settings import Aws, Settings
from serving.telemetry.accumulators import Sample

if TYPE_CHECKING:
    from serving.control.plane import ControlPlane
    from serving.control.reconciler import Reconciler
    from serving.control.store import Store
    from serving.processes.seaweed import Seaweed

log = logging.getLogger("serving.api")

_PAUSE_S: Final = 0.5
_PAUSE_LIMIT_S: Final = 30.0


class Api:
    """What answers the AWS APIs. Its libraries are imported on a thread, so that nothing waits for them that need not."""

    def __init__(self, settings: Settings, aws: Aws, fleet: Fleet) -> None:
        self._settings = settings
        self._aws = aws
        self._fleet = fleet
        self._composing = asyncio.Lock()
        self._missing = ""
        self._store: Store | None = None
        self._plane: ControlPlane | None = None
        self._reconciler: Reconciler | None = None
        self._seaweed: Seaweed | None = None

    async def open(self) -> None:
        """Starts the S3 of one's own, and what endpoints of earlier need. Raises `ConfigurationError`."""
        settings = self._settings
        if settings.with_s3:
            from serving.processes.seaweed import Seaweed

            self._seaweed = await Seaweed.start(settings.state_dir / "s3", settings.s3_port, self._aws)
            self._aws = self._seaweed.aws
        if settings.database is not None or (settings.state_dir / "control.db").exists():
            await self._compose()

    async def target_artifacts(self) -> Artifacts:
        """What fetches the models of multi-model endpoints, with what is known of the object store by now."""
        return await asyncio.to_thread(self._made_target_artifacts)

    async def restore(self) -> None:
        """Deploys the endpoints of earlier whose models are on this machine; the rest follows while the server runs."""
        if self._reconciler is not None:
            await self._reconciler.restore()

    async def run(self) -> None:
        """Keeps what runs equal to what is asked, for as long as the server runs; its faults are not the server's end."""
        pause_s = _PAUSE_S
        while True:
            began = monotonic()
            try:
                await self._keep()
            except MissingExtra as error:
                self._missing = error.message
                return
            except ServingError as error:
                log.error("the control API does not work: %s; trying again", error.message)
            except Exception:
                log.exception("the control API failed; what is served goes on, and it starts again")
            pause_s = _PAUSE_S if monotonic() - began > _PAUSE_LIMIT_S else min(pause_s * 2, _PAUSE_LIMIT_S)
            await asyncio.sleep(pause_s)

    async def _keep(self) -> None:
        await self._compose()
        assert self._store is not None
        assert self._reconciler is not None
        async with asyncio.TaskGroup() as tasks:
            tasks.create_task(self._reconciler.run())
            tasks.create_task(self._store.watch())
            if self._seaweed is not None:
                tasks.create_task(self._seaweed.watch())

    async def answer(self, request: Request) -> Answer:
        """The answer to a call; never raises."""
        try:
            if self._missing:
                raise UnknownOperation(self._missing)
            await self._compose()
        except ServingError as error:
            return refusal(error, request)
        except Exception:
            log.exception("the control API does not work (request %s)", request.request_id)
            return refusal(InternalError("the control API does not work; the server's log has the cause"), request)
        assert self._plane is not None
        return await self._plane.answer(request)

    def presence(self, url: str, pid: int, grpc_address: str | None) -> Presence:
        """What other programs on this machine are told of this server."""
        own = self._aws if self._seaweed is not None else Aws()
        return Presence(
            pid=pid,
            url=url,
            grpc_address=grpc_address,
            region=self._settings.region,
            account_id=self._settings.account_id,
            access_key_id=own.access_key_id,
            secret_access_key=own.secret_access_key,
            s3_endpoint_url=own.endpoint_url,
        )

    def lines(self) -> tuple[str, ...]:
        """What a person who starts the server is told of it."""
        if self._seaweed is None:
            return ()
        command = f"eval $(serving env --state-dir {shlex.quote(str(self._settings.state_dir))})"
        return (f"S3 on {self._aws.endpoint_url}; `{command}` points AWS clients at both",)

    def samples(self) -> list[Sample]:
        """The metrics of the control API."""
        sources = (self._plane, self._reconciler)
        return [sample for source in sources if source is not None for sample in source.samples()]

    def release(self) -> None:
        """Answers calls that wait for a change, before the workers that asked end."""
        if self._plane is not None:
            self._plane.release()

    async def close(self) -> None:
        """Ends the S3 of one's own and leaves the database."""
        if self._reconciler is not None:
            await self._reconciler.leave()
        if self._store is not None:
            await self._store.close()
        if self._seaweed is not None:
            await self._seaweed.stop()

    async def _compose(self) -> None:
        async with self._composing:
            if self._plane is None:
                self._store, self._plane, self._reconciler = await asyncio.to_thread(self._made)

    def _made_target_artifacts(self) -> Artifacts:
        """Blocks: imports."""
        from serving.control.target_artifacts import TargetArtifacts
        from serving.objects.store import open_store

        return TargetArtifacts(self._settings, open_store(self._aws, self._settings.allow_paths))

    def _made(self) -> tuple[Store, ControlPlane, Reconciler]:
        """Blocks: imports, connects, migrates."""
        try:
            from serving.control import logs
            from serving.control.deployer import Deployer
            from serving.control.nodes import node_id
            from serving.control.operations import OPERATIONS
            from serving.control.plane import ControlPlane
            from serving.control.reconciler import Reconciler
            from serving.control.store import Place, Store
            from serving.objects.store import open_store
        except ModuleNotFoundError as error:
            raise MissingExtra(
                f"the control API needs {error.name}, which is not installed: pip install 'serving[control]'"
            ) from error
        settings = self._settings
        place = Place(settings.account_id, settings.region)
        settings.state_dir.mkdir(mode=0o700, parents=True, exist_ok=True)
        node = node_id(settings.state_dir)
        deployer = Deployer(settings, open_store(self._aws, settings.allow_paths))
        # Last, for it holds the state directory.
        store = Store.open(settings.database, settings.state_dir, place, taken=lambda: frozenset(self._fleet.names()))
        plane = ControlPlane(store, OPERATIONS, logs.handlers(settings.state_dir / "logs", place), settings)
        return store, plane, Reconciler(store, self._fleet, deployer, node, settings)
