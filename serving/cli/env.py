"""`serving env`: the variables that point AWS's clients at a server."""

from __future__ import annotations

import json
import os
import shlex
from collections.abc import Mapping
from pathlib import Path

import click

from serving.cli.api import PLACEHOLDER, Server, checked, find, target


@click.command()
@target
@click.option("--shell", type=click.Choice(["sh", "fish", "json"]), default="sh", show_default=True)
def env(url: str | None, state_dir: str | None, shell: str) -> None:
    """Prints what points boto3, the AWS CLI and the SageMaker SDKs at a server.

    \b
    eval $(serving env)
    serving env --shell fish | source
    """
    # What the environment says already is of an earlier server as often as not; the one that runs here is meant.
    environ = {name: value for name, value in os.environ.items() if not name.startswith("AWS_ENDPOINT_URL")}
    values = variables(find(url, state_dir, environ), os.environ)
    click.echo({"sh": _sh, "fish": _fish, "json": _json}[shell](values))


def variables(server: Server, environ: Mapping[str, str]) -> dict[str, str | None]:
    """The variables to set; None for one to unset."""
    values: dict[str, str | None] = {
        "AWS_ENDPOINT_URL": server.url,
        "AWS_ENDPOINT_URL_S3": _s3(server, environ),
        "AWS_DEFAULT_REGION": server.region,
        "AWS_REGION": server.region,
    }
    here = server.presence
    if here is not None and here.access_key_id is not None:
        values |= {"AWS_ACCESS_KEY_ID": here.access_key_id, "AWS_SECRET_ACCESS_KEY": here.secret_access_key}
        if environ.get("AWS_SESSION_TOKEN"):
            # It belongs to other keys.
            values["AWS_SESSION_TOKEN"] = None
    elif not _has_keys(environ):
        values |= {"AWS_ACCESS_KEY_ID": PLACEHOLDER, "AWS_SECRET_ACCESS_KEY": PLACEHOLDER}
    return values


def _s3(server: Server, environ: Mapping[str, str]) -> str:
    """Where S3 is: the server's own, or where it was; never the server itself, which is no S3."""
    if server.presence is not None and server.presence.s3_endpoint_url is not None:
        return server.presence.s3_endpoint_url
    for name in ("AWS_ENDPOINT_URL_S3", "AWS_ENDPOINT_URL"):
        before = environ.get(name, "").rstrip("/")
        if before and before != server.url:
            return checked(before)
    suffix = ".cn" if server.region.startswith("cn-") else ""
    return f"https://s3.{server.region}.amazonaws.com{suffix}"


def _has_keys(environ: Mapping[str, str]) -> bool:
    """Whether clients find keys by themselves. Source: the order in which botocore looks for them."""
    if any(
        environ.get(name)
        for name in (
            "AWS_ACCESS_KEY_ID",
            "AWS_PROFILE",
            "AWS_WEB_IDENTITY_TOKEN_FILE",
            "AWS_CONTAINER_CREDENTIALS_RELATIVE_URI",
            "AWS_CONTAINER_CREDENTIALS_FULL_URI",
        )
    ):
        return True
    file = environ.get("AWS_SHARED_CREDENTIALS_FILE") or Path.home() / ".aws" / "credentials"
    return Path(file).expanduser().is_file()


def _sh(values: Mapping[str, str | None]) -> str:
    """One line: the shell that splits it in `eval $(serving env)` puts it together again."""
    sets = " ".join(f"{name}={shlex.quote(value)}" for name, value in values.items() if value is not None)
    unsets = " ".join(name for name, value in values.items() if value is None)
    return f"export {sets}" + (f"; unset {unsets}" if unsets else "")


def _fish(values: Mapping[str, str | None]) -> str:
    lines = [
        f"set -e {name}" if value is None else f"set -gx {name} '{_escaped(value)}'" for name, value in values.items()
    ]
    return "\n".join(f"{line};" for line in lines)


def _escaped(value: str) -> str:
    return value.replace("\\", "\\\\").replace("'", "\\'")


def _json(values: Mapping[str, str | None]) -> str:
    return json.dumps(values, indent=2)
