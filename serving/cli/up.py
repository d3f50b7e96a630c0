"""`serving up`: starts the server."""

from __future__ import annotations

import asyncio
import logging
import os
from typing import Any

import click

from serving.errors import ConfigurationError
from serving.objects.archive import Archives, Limits
from serving.objects.repository import collect
from serving.processes.channel import EndpointWiring
from serving.processes.supervisor import Supervisor
from serving.settings import Settings, load
from serving.telemetry import logs

log = logging.getLogger("serving.up")

VARIANT = "AllTraffic"


@click.command()
@click.option("--host", help="Address to listen on.  [default: 127.0.0.1]")
@click.option("--port", type=int, help="HTTP port; 0 picks a free one.  [default: 8080]")
@click.option("--grpc-port", type=int, help="gRPC port (not built yet).")
@click.option("--state-dir", help="Where unpacked models and other state live.")
@click.option(
    "--model", "models", multiple=True, metavar="[NAME=]PATH", help="A .onnx file, a directory or a model.tar.gz."
)
@click.option("--model-repository", "model_repositories", multiple=True, metavar="DIR", help="A folder of models.")
@click.option("--default-model", metavar="NAME", help="The model behind /invocations when several are served.")
@click.option("--workers", type=int, help="Data-plane processes.  [default: 1]")
@click.option("--tls-cert", metavar="FILE", help="Certificate chain (PEM).")
@click.option("--tls-key", metavar="FILE", help="Private key (PEM).")
@click.option("--allowed-host", "allowed_hosts", multiple=True, metavar="NAME", help="Another Host name to answer to.")
@click.option(
    "--allowed-origin", "allowed_origins", multiple=True, metavar="ORIGIN", help="A web origin that may call."
)
@click.option(
    "--allow-unauthenticated", is_flag=True, default=None, help="Listen beyond loopback without authentication."
)
@click.option("--log-format", type=click.Choice(["human", "json"]))
@click.option("--log-level", type=click.Choice(["debug", "info", "warning", "error"]))
@click.option("--config", "config", metavar="FILE", help="Settings as YAML; flags and SERVING_* variables win over it.")
def up(**flags: Any) -> None:
    """Start the server and serve models until SIGTERM or Ctrl-C."""
    settings = load(flags, os.environ)
    logs.configure("supervisor", settings.log_format, settings.log_level)
    wiring = wire(settings)
    asyncio.run(_serve(settings, wiring))


async def _serve(settings: Settings, wiring: list[EndpointWiring]) -> None:
    default = settings.default_model or (wiring[0].name if len(wiring) == 1 else None)
    await Supervisor(settings, wiring, default).run()


def wire(settings: Settings) -> list[EndpointWiring]:
    """What the settings ask to serve. Raises `ArtifactError` or `ConfigurationError`."""
    archives = Archives(settings.state_dir / "models", Limits(max_bytes=settings.max_archive_bytes))
    sources = collect(settings.models, settings.model_repositories, archives)
    for source in sources:
        for warning in source.warnings:
            log.warning("%s: %s", source.origin, warning)
    names = [source.name for source in sources]
    if settings.default_model is not None and settings.default_model not in names:
        raise ConfigurationError(
            f"--default-model {settings.default_model} is not among the models served: {', '.join(names) or 'none'}"
        )
    return [
        EndpointWiring(source.name, VARIANT, source.container, str(source.artifact), source.config)
        for source in sources
    ]
