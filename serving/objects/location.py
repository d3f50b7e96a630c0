"""Where an object is: the bucket and the key that an S3 URL names."""

from __future__ import annotations

import re
from typing import Final
from urllib.parse import unquote, urlsplit

import msgspec

from serving.errors import ArtifactError

_BUCKET: Final = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{1,253}[A-Za-z0-9]")
_AWS_HOST: Final = re.compile(
    r"(?:(?P<bucket>.+)\.)?s3(?:[.-](?:dualstack\.)?(?P<region>[a-z]{2,}(?:-[a-z]+)+-[0-9]+))?\.amazonaws\.com(?:\.cn)?"
)
_MOST_KEY_BYTES: Final = 1024
_MOST_SHOWN: Final = 300


class Location(msgspec.Struct, frozen=True):
    """A bucket and a key in it, or the beginning of keys; the key is exactly what S3 has, nothing is encoded."""

    bucket: str
    key: str

    @property
    def url(self) -> str:
        """The location as an `s3://` URL."""
        return f"s3://{self.bucket}/{self.key}"

    def named(self) -> Location:
        """Itself, where it names an object. Raises `ArtifactError` where it names a bucket."""
        if not self.key:
            raise ArtifactError(f"{self.url} names a bucket; s3://BUCKET/KEY was expected")
        return self


def locate(url: str, endpoint_url: str | None = None) -> Location:
    """What an `s3://BUCKET/KEY` or `https://` URL of S3 names. Raises `ArtifactError`, which says what was expected.

    After `s3://BUCKET/` all is the key as it stands; in an `https://` URL (and in one that begins with `endpoint_url`)
    it is percent-encoded. Source: "Methods for accessing a bucket" of the S3 user guide.
    """
    if url.startswith("s3://"):
        bucket, _, key = url.removeprefix("s3://").partition("/")
    else:
        bucket, key = _of_http(url, endpoint_url)
    if not _BUCKET.fullmatch(bucket):
        raise ArtifactError(
            f"{shown(url)}: {bucket!r} is no bucket's name; s3://BUCKET/KEY was expected, with a name of letters, "
            "digits, dots and hyphens"
        )
    if len(key.encode("utf-8", "surrogatepass")) > _MOST_KEY_BYTES:
        raise ArtifactError(f"{shown(url)}: the key has more than {_MOST_KEY_BYTES} bytes, S3's limit")
    return Location(bucket, key)


def _of_http(url: str, endpoint_url: str | None) -> tuple[str, str]:
    try:
        parts = urlsplit(url)
        host, port = parts.hostname or "", parts.port
    except ValueError:
        raise _unexpected(url) from None
    own = endpoint_url.rstrip("/") + "/" if endpoint_url else None
    match = _AWS_HOST.fullmatch(host) if parts.scheme == "https" and port in (None, 443) else None
    ours = own is not None and url.startswith(own)
    if not ours and match is None:
        raise _unexpected(url)
    if parts.query or parts.fragment or parts.username is not None:
        raise ArtifactError(
            f"{shown(url)}: neither versions, signatures nor user names are taken in a URL; s3://BUCKET/KEY was expected"
        )
    path = url.removeprefix(own) if ours and own is not None else parts.path.removeprefix("/")
    try:
        if match is not None and not ours and match["bucket"]:
            return match["bucket"], unquote(path, errors="strict")
        bucket, _, key = path.partition("/")
        return bucket, unquote(key, errors="strict")
    except UnicodeDecodeError:
        raise ArtifactError(f"{shown(url)}: the percent-encoded key is not UTF-8") from None


def _unexpected(url: str) -> ArtifactError:
    return ArtifactError(
        f"{shown(url)} is not in S3; s3://BUCKET/KEY was expected, or https://BUCKET.s3.REGION.amazonaws.com/KEY"
    )


def shown(url: str) -> str:
    """The URL without what may be secret in it, and not endless."""
    if not url.startswith("s3://"):
        url = re.sub(r"//[^/@]*@", "//", re.split(r"[?#]", url, maxsplit=1)[0])
    return url if len(url) <= _MOST_SHOWN else f"{url[:_MOST_SHOWN]}..."
