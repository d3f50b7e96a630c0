"""What a running server tells other programs on this machine: a file in its state directory, for its own user alone."""

from __future__ import annotations

import os
import secrets
from contextlib import suppress
from pathlib import Path
from typing import Final

import msgspec

from serving.errors import ConfigurationError

FILE: Final = "server.json"


class Presence(msgspec.Struct, frozen=True, kw_only=True):
    """A running server: its process, where it answers, whose resources it keeps, and the S3 of its own if it runs one.

    What is of that S3 is None where it runs none, and so is `grpc_address` (HOST:PORT) without gRPC. `started` tells the
    process from a later one of the same number; `write` fills it in.
    """

    pid: int
    url: str
    region: str
    account_id: str
    access_key_id: str | None = None
    secret_access_key: str | None = None
    s3_endpoint_url: str | None = None
    grpc_address: str | None = None
    started: str = ""


def write(state_dir: Path, presence: Presence) -> None:
    """Tells of a server; readers see the whole of it or what was there before. Raises `ConfigurationError`."""
    told = msgspec.structs.replace(presence, started=_started(presence.pid) or "")
    part = state_dir / f".{FILE}.{secrets.token_hex(8)}"
    try:
        state_dir.mkdir(mode=0o700, parents=True, exist_ok=True)
        target = os.open(part, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
        try:
            with os.fdopen(target, "wb") as out:
                out.write(msgspec.json.encode(told))
            part.replace(state_dir / FILE)
        finally:
            part.unlink(missing_ok=True)
    except OSError as error:
        raise ConfigurationError(f"{state_dir / FILE} cannot be written: {error.strerror}") from error


def read(state_dir: Path) -> Presence | None:
    """The server that runs on this state directory; None where none does. Raises `ConfigurationError`."""
    presence = _read(state_dir)
    return presence if presence is not None and _started(presence.pid) == presence.started else None


def remove(state_dir: Path) -> None:
    """Takes back what this process told; what another server tells there by now stays."""
    with suppress(OSError, ConfigurationError):
        presence = _read(state_dir)
        if presence is not None and presence.pid == os.getpid() and presence.started == _started(presence.pid):
            (state_dir / FILE).unlink()


def _read(state_dir: Path) -> Presence | None:
    file = state_dir / FILE
    try:
        return msgspec.json.decode(file.read_bytes(), type=Presence)
    except (FileNotFoundError, NotADirectoryError):
        return None
    except OSError as error:
        raise ConfigurationError(f"{file} cannot be read: {error.strerror}") from error
    except (msgspec.DecodeError, UnicodeDecodeError):
        # What a machine that lost its power left; the server is gone with it.
        return None


def _started(pid: int) -> str | None:
    """When a process began, as something that no other process of that number has; None where there is none.

    Source: proc(5), field 22 of /proc/PID/stat, which counts from the machine's start, and that start's id.
    """
    try:
        fields = Path(f"/proc/{pid}/stat").read_bytes().rpartition(b")")[2].split()
        boot = Path("/proc/sys/kernel/random/boot_id").read_text().strip()
    except OSError:
        return None
    # The state is the third field: a zombie serves nobody.
    return None if fields[0] in (b"Z", b"X") else f"{boot}/{int(fields[19])}"
