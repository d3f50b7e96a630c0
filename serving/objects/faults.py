"""What S3 and the library that speaks it complain of, as our errors: which object, what was wrong, what would be right."""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Final

from serving.errors import (
    ArtifactError,
    ObjectChanged,
    ObjectDenied,
    ObjectMissing,
    ObjectStoreUnavailable,
    ServingError,
)
from serving.objects.location import Location, shown
from serving.settings import Aws

_CODE: Final = re.compile(r"<Code>(\w+)</Code>")
_STATUS: Final = re.compile(r"non-2xx status code: (\d{3})")
_REDIRECTED: Final = re.compile(r"without LOCATION|status code: 301|PermanentRedirect|AuthorizationHeaderMalformed")
_NO_KEYS: Final = re.compile(r"169\.254\.|fd00:ec2|sts\.|[Mm]issing (AccessKey|SecretAccessKey|[Cc]redential)")
_BUSY: Final = frozenset({408, 409, 425, 429})
_CAUSES: Final = (
    ("ConnectionRefused", "connection refused"),
    ("ConnectionReset", "the connection was reset"),
    ("BrokenPipe", "the connection was reset"),
    ("dns error", "its name is not known"),
    ("UnknownIssuer", "its certificate is not trusted"),
    ("certificate", "its certificate is not accepted"),
    ("IncompleteMessage", "the connection was cut"),
    ("IncompleteBody", "the connection was cut"),
    ("UnexpectedEof", "the connection was cut"),
    ("TimedOut", "it did not answer in time"),
    ("NetworkUnreachable", "the network cannot be reached"),
)


@contextmanager
def translated(location: Location, aws: Aws) -> Iterator[None]:
    """Raises what the library raises in the block as ours. Never tells a key, nor what was signed."""
    from obstore.exceptions import BaseError

    try:
        yield
    except FileNotFoundError as error:
        raise _missing(location, str(error)) from error
    except (BaseError, ValueError) as error:
        raise _fault(location, aws, type(error).__name__, str(error)) from error


def is_transient(error: Exception) -> bool:
    """Whether what broke while an object's content came may be gone by the next try."""
    return type(error).__name__ == "GenericError" and _STATUS.search(str(error)) is None


def _missing(location: Location, text: str) -> ObjectMissing:
    if "NoSuchBucket" in text:
        return ObjectMissing(f"{location.url} does not exist: there is no bucket {location.bucket}")
    return ObjectMissing(f"{location.url} does not exist")


def _fault(location: Location, aws: Aws, kind: str, text: str) -> ServingError:
    code, number = _CODE.search(text), _STATUS.search(text)
    status = int(number[1]) if number else 0
    what = " ".join([*([str(status)] if status else []), *([code[1]] if code else [])])
    if kind in ("ValueError", "InvalidPathError"):
        return unreadable_key(location)
    if kind == "PreconditionError":
        return ObjectChanged(f"{location.url} was replaced since its ETag was read; try again")
    if status == 416:
        return ObjectChanged(f"{location.url} became shorter while it was read; try again")
    if _REDIRECTED.search(text):
        return ArtifactError(
            f"{location.url} is in another region than {aws.region or 'us-east-1'}, which was asked; AWS_REGION says which"
        )
    if not aws.access_key_id and not aws.endpoint_url and _NO_KEYS.search(text):
        return ObjectDenied(
            f"{location.url}: there are no AWS credentials; set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, and"
            " AWS_ENDPOINT_URL where S3 is not AWS's own"
        )
    if kind in ("PermissionDeniedError", "UnauthenticatedError") or status in (401, 403):
        return ObjectDenied(f"{location.url}: access denied ({what or kind}); {_keys(aws)}")
    if status == 404:
        return _missing(location, text)
    if 400 <= status < 500 and status not in _BUSY:
        return ArtifactError(f"{location.url}: S3 refused the request ({what})")
    cause = next((told for sign, told in _CAUSES if sign in text), "") or what or "the request failed"
    return ObjectStoreUnavailable(
        f"{location.url} cannot be reached at {_where(aws)}: {cause}; AWS_ENDPOINT_URL says where S3 is"
    )


def unreadable_key(location: Location) -> ArtifactError:
    """The fault of a key that S3 takes and this server does not."""
    return ArtifactError(
        f"{location.url}: keys with a part that is empty, . or .., or with control characters, are not read here; copy"
        " the object to another key"
    )


def _where(aws: Aws) -> str:
    return shown(aws.endpoint_url) if aws.endpoint_url else f"AWS S3 in {aws.region or 'us-east-1'}"


def _keys(aws: Aws) -> str:
    """What the requests were signed with, and so what is to be looked at."""
    if aws.access_key_id:
        token = ", AWS_SESSION_TOKEN" if aws.session_token else ""
        return f"AWS_ACCESS_KEY_ID, AWS_SECRET_ACCESS_KEY{token} must be those of {_where(aws)} and may read and write there"
    if aws.endpoint_url:
        return f"no key was given for {_where(aws)}; set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY"
    return "the role or user of this machine must be allowed to"
