"""Errors on their way between the supervisor and a worker: the name of a class of the one tree, and the message."""

from __future__ import annotations

from typing import Final

from serving import errors
from serving.errors import InternalError, ServingError

_KINDS: Final = {
    name: kind for name, kind in vars(errors).items() if isinstance(kind, type) and issubclass(kind, ServingError)
}


def told(error: BaseException) -> tuple[str, str]:
    """An error as the name of its class, the nearest one of the tree, and its message; what is no `ServingError` says nothing."""
    if not isinstance(error, ServingError):
        return InternalError.__name__, InternalError().message
    # Others may have classes of the same name: the class itself has to be the one.
    kind = next(kind for kind in type(error).__mro__ if _KINDS.get(kind.__name__) is kind)
    return kind.__name__, error.message


def raised(name: str, message: str, retry_after_s: float | None = None) -> ServingError:
    """The error that `told` told; of a class that nobody knows it is an `InternalError`."""
    return _KINDS.get(name, InternalError)(message, retry_after_s=retry_after_s)
