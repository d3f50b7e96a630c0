"""Targets: the models of a multi-model endpoint, by the names that callers give them."""

from __future__ import annotations

import re
from typing import Final
from urllib.parse import quote

from serving.errors import BadRequest

MOST_CHARACTERS: Final = 1024
"""Of a target's name. Source: InvokeEndpoint, SageMaker Runtime API reference."""

_MOST_KEY_BYTES: Final = 1024
"""Of a key. Source: "Naming Amazon S3 objects" of the S3 user guide."""

_MOST_SHOWN: Final = 80
_REFUSED: Final = re.compile(r"[\x00-\x1f\x7f-\x9f\u2028\u2029\ud800-\udfff\\]")
_PART: Final = re.compile(r"(?:^|/)\.{0,2}(?:/|$)")
"""A part that is empty, `.` or `..`."""


def target_url(prefix: str, target: str) -> str:
    """The URL of a target below a prefix, which ends in a slash; one slash before the target is as good as none.

    Raises `BadRequest` where the target cannot be the name of an object below the prefix.
    """
    if len(target) > MOST_CHARACTERS:
        raise _refused(target, f"has {len(target)} characters, {MOST_CHARACTERS} are allowed")
    key = target.removeprefix("/")
    if not key:
        raise _refused(target, "is empty")
    if target[0].isspace():
        raise _refused(target, "begins with a space")
    if _REFUSED.search(key):
        raise _refused(target, "has a control character, a backslash or half a character in it")
    if _PART.search(key):
        raise _refused(target, "has a part that is empty, . or ..")
    if not prefix.startswith("s3://"):
        return prefix + quote(key)
    # Only keys of s3:// URLs are written as they are.
    below = prefix.removeprefix("s3://").partition("/")[2]
    if len(below.encode(errors="surrogatepass")) + len(key.encode()) > _MOST_KEY_BYTES:
        raise _refused(target, f"makes a key of more than {_MOST_KEY_BYTES} bytes with the endpoint's prefix")
    return prefix + key


def _refused(target: str, why: str) -> BadRequest:
    shown = ascii(target if len(target) <= _MOST_SHOWN else f"{target[:_MOST_SHOWN]}...")
    return BadRequest(
        f"The target model {shown} {why}; the key of a model below the endpoint's prefix was expected, such as model.tar.gz"
    )
