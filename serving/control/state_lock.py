"""The lock on a state directory: one running server for each, so that nothing in it has two owners."""

from __future__ import annotations

import fcntl
import os
from contextlib import suppress
from pathlib import Path

from serving.errors import ConfigurationError


class StateLock:
    """A lock on `state_dir`. The kernel gives it back when the process ends, however it ends."""

    def __init__(self, descriptor: int) -> None:
        self._descriptor = descriptor

    @classmethod
    def take(cls, state_dir: Path) -> StateLock:
        """Makes the directory where it is absent and locks it. Raises `ConfigurationError` when another server has it."""
        path = state_dir / "lock"
        try:
            state_dir.mkdir(mode=0o700, parents=True, exist_ok=True)
            descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        except OSError as error:
            raise ConfigurationError(
                f"the state directory {state_dir} cannot be used ({error.strerror}: {error.filename}); "
                "let the server write there, or name another with --state-dir"
            ) from error
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            owner = os.pread(descriptor, 32, 0).decode("ascii", "replace").strip() or "unknown"
            os.close(descriptor)
            raise ConfigurationError(
                f"the state directory {state_dir} is in use by another server (process {owner}); "
                "stop that one, or give this one another directory with --state-dir"
            ) from None
        # For the message above only; a full disk does not keep the server from starting.
        with suppress(OSError):
            os.ftruncate(descriptor, 0)
            os.pwrite(descriptor, b"%d\n" % os.getpid(), 0)
        return cls(descriptor)

    def release(self) -> None:
        """Gives the directory free; harmless the second time."""
        if self._descriptor >= 0:
            os.close(self._descriptor)
            self._descriptor = -1
