"""`serving up`: starts the server."""

from __future__ import annotations

import asyncio
import os
from pathlib import Path
from typing import Any

import click

from serving.objects import repository
from serving.processes.channel import EndpointWiring
from serving.processes.supervisor import Supervisor
from serving.settings import Settings, load
from serving.telemetry import logs

VARIANT = "AllTraffic"


@click.command()
@click.option("--host", help="Address to listen on.  [default: 127.0.0.1]")
@click.option("--port", type=int, help="HTTP port; 0 picks a free one.  [default: 8080]")
@click.option("--grpc-port", type=int, help="gRPC port (not built yet).")
@click.option("--state-dir", help="Where unpacked models and other state live.")
@click.option("--model", "models", multiple=True, metavar="[NAME=]PATH", help="A .onnx file, a directory or a model.tar.gz.")
@click.option("--model-repository", "model_repositories", multiple=True, metavar="DIR", help="A folder of models.")
@click.option("--default-model", metavar="NAME", help="The model behind /invocations when several are served.")
@click.option("--workers", type=int, help="Data-plane processes.  [default: 1]")
@click.option("--tls-cert", metavar="FILE", help="Certificate chain (PEM).")
@click.option("--tls-key", metavar="FILE", help="Private key (PEM).")
@click.option("--allowed-host", "allowed_hosts", multiple=True, metavar="NAME", help="Another Host name to answer to.")
@click.option("--allowed-origin", "allowed_origins", multiple=True, metavar="ORIGIN", help="A web origin that may call.")
@click.option("--allow-unauthenticated", is_flag=True, default=None, help="Listen beyond loopback without authentication.")
@click.option("--log-format", type=click.Choice(["human", "json"]))
@click.option("--log-level", type=click.Choice(["debug", "info", "warning", "error"]))
@click.option("--config", "config", metavar="FILE", help="Settings as YAML; flags and SERVING_* variables win over it.")
def up(**flags: Any) -> None:
    """Start the server and serve models until SIGTERM or Ctrl-C."""
    given = {name: value for name, value in flags.items() if value not in (None, ())}
    settings = load(given, os.environ)
    logs.configure("supervisor", settings.log_format, settings.log_level)
    wiring = wire(settings)
    asyncio.run(_serve(settings, wiring))


async def _serve(settings: Settings, wiring: list[EndpointWiring]) -> None:
    default = settings.default_model or (wiring[0].name if len(wiring) == 1 else None)
    await Supervisor(settings, wiring, default).run()


def wire(settings: Settings) -> list[EndpointWiring]:
    """What the settings ask to serve. Raises `ArtifactError` or `ConfigurationError`."""
    sources = repository.sources(settings)
    return [
        EndpointWiring(source.name, VARIANT, source.container, str(Path(source.artifact).absolute()), source.config)
        for source in sources
    ]
