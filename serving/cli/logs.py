"""`serving logs`: what an endpoint's models and workers had to say."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator
from datetime import UTC, datetime
from typing import Any, Final

import click

from serving.cli import table
from serving.cli.api import calling, code, described, target

GROUP: Final = "/aws/sagemaker/Endpoints/"

_POLL_S: Final = 1.0


@click.command()
@click.argument("endpoint")
@target
@click.option("--follow", "-f", is_flag=True, help="Go on as more is logged, until Ctrl-C.")
@click.option("--filter", "pattern", default="", help='Only what holds these words and "phrases".')
@click.option("--json", "as_json", is_flag=True, help="The events of FilterLogEvents, one a line.")
def logs(endpoint: str, url: str | None, state_dir: str | None, follow: bool, pattern: str, as_json: bool) -> None:
    """Prints the log of ENDPOINT by time, that of all its workers."""
    with calling(url, state_dir) as api:
        events = _events(api.client("logs"), api.client("sagemaker"), endpoint, pattern, follow)
        for event in events:
            click.echo(json.dumps(event) if as_json else _line(event))


def _events(client: Any, sagemaker: Any, endpoint: str, pattern: str, follow: bool) -> Iterator[dict[str, Any]]:
    token: dict[str, str] = {}
    while True:
        page = _page(client, sagemaker, endpoint, {"filterPattern": pattern} | token)
        yield from page["events"]
        if "nextToken" in page:
            token = {"nextToken": page["nextToken"]}
        elif not follow:
            return
        else:
            time.sleep(_POLL_S)


def _page(client: Any, sagemaker: Any, endpoint: str, parameters: dict[str, str]) -> dict[str, Any]:
    try:
        page: dict[str, Any] = client.filter_log_events(logGroupName=f"{GROUP}{endpoint}", **parameters)
    except client.exceptions.ClientError as error:
        if code(error) != "ResourceNotFoundException":
            raise
        if described(sagemaker.describe_endpoint, EndpointName=endpoint) is None:
            raise click.ClickException(f"there is no endpoint {endpoint}, and no log of one") from error
        return {"events": []}
    return page


def _line(event: dict[str, Any]) -> str:
    moment = datetime.fromtimestamp(event["timestamp"] / 1000, UTC)
    return f"{moment:%Y-%m-%dT%H:%M:%S}.{event['timestamp'] % 1000:03d}Z {event['logStreamName']} {table.text(event['message'])}"
