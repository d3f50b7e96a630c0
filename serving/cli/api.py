"""The AWS APIs of a running server, as the commands call them: where it is, with which keys, and errors on one line."""

from __future__ import annotations

import importlib
import os
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any, Final, TypeVar
from urllib.parse import urlsplit

import click
import msgspec

from serving.cli.table import cell
from serving.errors import MissingExtra
from serving.processes import presence
from serving.processes.presence import Presence
from serving.settings import Aws, aws, load

PLACEHOLDER: Final = "serving"
"""Keys where there are none: clients refuse to sign without, and the server does not ask whose they are."""

_CONNECT_S: Final = 5
_READ_S: Final = 70

Command = TypeVar("Command", bound=Callable[..., Any])


class Server(msgspec.Struct, frozen=True):
    """A server to call. `presence` is what it tells of itself, where it runs on this machine."""

    url: str
    region: str
    presence: Presence | None = None


def target(command: Command) -> Command:
    """The options that say which server is called."""
    state_dir = click.option("--state-dir", metavar="DIR", help="The state directory of a server on this machine.")
    url = click.option("--url", help="The server.  [default: AWS_ENDPOINT_URL, or the one that runs on this machine]")
    return state_dir(url(command))


def find(url: str | None, state_dir: str | None, environ: Mapping[str, str]) -> Server:
    """The server that is meant: by its URL, by its state directory, by the environment, or the one that runs here.

    Raises `click.ClickException` where there is none.
    """
    settings = load({"state_dir": state_dir}, environ)
    here = presence.read(settings.state_dir)
    if url is None and state_dir is None:
        url = environ.get("AWS_ENDPOINT_URL_SAGEMAKER") or environ.get("AWS_ENDPOINT_URL") or None
    if url is None:
        if here is None:
            raise click.ClickException(
                f"no server runs on the state directory {settings.state_dir}; start one with `serving up`, or name one with "
                "--state-dir or --url"
            )
        return Server(reachable(here.url), here.region, here)
    url = checked(url)
    if here is not None and reachable(here.url) == url:
        return Server(url, here.region, here)
    return Server(url, aws(environ).region or settings.region)


def checked(url: str) -> str:
    """A URL without its last slash. Raises `click.ClickException` where it is none."""
    try:
        parts = urlsplit(url)
        _ = parts.port
    except ValueError as error:
        raise click.ClickException(f"{url} is not a URL: {error}") from error
    if parts.scheme not in ("http", "https") or not parts.hostname or parts.query or parts.fragment:
        raise click.ClickException(f"{url} is not a URL such as http://127.0.0.1:8080")
    return url.rstrip("/")


def reachable(url: str) -> str:
    """The URL of a server on this machine; one that listens on all addresses is called on loopback."""
    return checked(url).replace("//0.0.0.0", "//127.0.0.1").replace("//[::]", "//[::1]")


class Api:
    """Clients of one server. Raises `MissingExtra` without botocore."""

    def __init__(self, server: Server, environ: Mapping[str, str]) -> None:
        self.server = server
        self._environ = environ
        self._session = _botocore("session").get_session()
        # Nobody's keys are there, and asking for them takes seconds.
        self._session.get_component("credential_provider").remove("iam-role")

    def client(self, service: str) -> Any:
        """A client of one of the server's APIs."""
        keys = self._keys() or Aws(access_key_id=PLACEHOLDER, secret_access_key=PLACEHOLDER)
        return self._client(service, self.server.url, keys)

    def account(self) -> str:
        """Whose resources the server keeps."""
        here = self.server.presence
        return here.account_id if here is not None else str(self.client("sts").get_caller_identity()["Account"])

    def store(self) -> Aws:
        """The S3 that models are uploaded to: the server's own, or else the environment's.

        Raises `click.ClickException` where there is none.
        """
        here, environ = self.server.presence, self._environ
        if here is not None and here.s3_endpoint_url is not None:
            endpoint_url: str | None = here.s3_endpoint_url
        else:
            endpoint_url = environ.get("AWS_ENDPOINT_URL_S3") or environ.get("AWS_ENDPOINT_URL")
            if endpoint_url is not None and endpoint_url.rstrip("/") == self.server.url:
                endpoint_url = None
        keys = self._keys()
        if keys is None:
            raise click.ClickException(
                "there is no S3 to upload to: start the server with --with-s3, or set AWS_ACCESS_KEY_ID, "
                "AWS_SECRET_ACCESS_KEY and AWS_ENDPOINT_URL_S3"
            )
        return msgspec.structs.replace(keys, region=self.server.region, endpoint_url=endpoint_url)

    def buckets(self, store: Aws) -> Any:
        """A client of that S3."""
        return self._client("s3", store.endpoint_url, store)

    def _keys(self) -> Aws | None:
        """The keys of the server's own S3, or else those of the environment; None where there are none."""
        here = self.server.presence
        if here is not None and here.access_key_id is not None:
            return Aws(access_key_id=here.access_key_id, secret_access_key=here.secret_access_key)
        found = self._session.get_credentials()
        if found is None:
            return None
        frozen = found.get_frozen_credentials()
        return Aws(access_key_id=frozen.access_key, secret_access_key=frozen.secret_key, session_token=frozen.token)

    def _client(self, service: str, endpoint_url: str | None, keys: Aws) -> Any:
        addressing = {"s3": {"addressing_style": "path"}} if endpoint_url else {}
        return self._session.create_client(
            service,
            region_name=self.server.region,
            endpoint_url=endpoint_url,
            aws_access_key_id=keys.access_key_id,
            aws_secret_access_key=keys.secret_access_key,
            aws_session_token=keys.session_token,
            config=_botocore("config").Config(
                connect_timeout=_CONNECT_S, read_timeout=_READ_S, retries={"total_max_attempts": 2}, **addressing
            ),
        )


@contextmanager
def calling(url: str | None, state_dir: str | None) -> Iterator[Api]:
    """The API of the server that is meant, for a `with` block in which AWS's errors become `click.ClickException`s."""
    server = find(url, state_dir, os.environ)
    errors = _botocore("exceptions")
    try:
        # A profile that is not there, or a file of settings that cannot be read, is found here.
        yield Api(server, os.environ)
    except errors.ClientError as error:
        raise click.ClickException(f"{code(error)}: {cell(error.response['Error'].get('Message', ''))}") from error
    except errors.EndpointConnectionError as error:
        asked = error.kwargs.get("endpoint_url", server.url)
        raise click.ClickException(f"nothing listens at {asked}; is the server running there?") from error
    except errors.BotoCoreError as error:
        raise click.ClickException(cell(error)) from error


def code(error: Any) -> str:
    """The class of an AWS error: `ValidationException`."""
    return str(error.response.get("Error", {}).get("Code", "Unknown"))


def absent(error: Any) -> bool:
    """Whether an AWS error of a call on a resource says that there is none of that name. Source: what the SDKs look for."""
    message = str(error.response.get("Error", {}).get("Message", ""))
    return code(error) == "ResourceNotFound" or (code(error) == "ValidationException" and "Could not find" in message)


def described(describe: Callable[..., dict[str, Any]], **name: str) -> dict[str, Any] | None:
    """A resource's document, or None where there is none of that name."""
    try:
        return plain(describe(**name))
    except _botocore("exceptions").ClientError as error:
        if absent(error):
            return None
        raise


def listed(client: Any, operation: str, member: str, **parameters: Any) -> list[dict[str, Any]]:
    """All pages of a list."""
    pages = client.get_paginator(operation).paginate(**parameters)
    return [document for page in pages for document in page[member]]


def plain(answer: dict[str, Any]) -> dict[str, Any]:
    """An answer without what botocore adds."""
    return {name: value for name, value in answer.items() if name != "ResponseMetadata"}


def _botocore(module: str) -> Any:
    try:
        return importlib.import_module(f"botocore.{module}")
    except ImportError as error:
        raise MissingExtra(
            f"the server's API is called with botocore, which cannot be imported ({error}): pip install 'serving[control]'"
        ) from error
