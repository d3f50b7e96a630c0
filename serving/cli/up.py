"""`serving up`: starts the server."""

from __future__ import annotations

import asyncio
import logging
import os
import sys
from collections.abc import Mapping
from typing import Any, get_args

import click

from serving.objects.archive import Archives, Limits
from serving.objects.catalogue import Catalogue, Entry
from serving.objects.watch import Place
from serving.processes.control import first
from serving.processes.supervisor import Supervisor
from serving.settings import Aws, GrpcTransport, ModelEviction, Settings, aws, load
from serving.telemetry import logs


@click.command()
@click.option("--host", help="Address to listen on.  [default: 127.0.0.1]")
@click.option("--port", type=int, help="HTTP port; 0 picks a free one.  [default: 8080]")
@click.option("--grpc-port", type=int, help="gRPC port, such as 8001; 0 picks a free one.  [default: no gRPC]")
@click.option(
    "--grpc-transport", type=click.Choice(get_args(GrpcTransport)), help="What carries gRPC.  [default: grpcio]"
)
@click.option("--state-dir", help="Where unpacked models and other state live.")
@click.option(
    "--model", "models", multiple=True, metavar="[NAME=]PATH", help="A .onnx file, a directory or a model.tar.gz."
)
@click.option("--model-repository", "model_repositories", multiple=True, metavar="DIR", help="A folder of models.")
@click.option("--default-model", metavar="NAME", help="The model behind /invocations when several are served.")
@click.option(
    "--model-control-mode",
    type=click.Choice(["none", "poll", "explicit"]),
    help="What happens when models on disk change: nothing, they are followed, or as told.  [default: none]",
)
@click.option("--repository-poll-s", type=float, metavar="SECONDS", help="Time between two looks.  [default: 5]")
@click.option(
    "--load-model", "load_model", multiple=True, metavar="NAME", help="Load at start in explicit mode; * all."
)
@click.option("--workers", type=int, help="Data-plane processes.  [default: 1]")
@click.option(
    "--response-cache-bytes", type=int, help="Answers each worker keeps, for models that ask for it.  [default: 0]"
)
@click.option("--allow-pickle", is_flag=True, default=None, help="Load pickles, which run their author's code.")
@click.option(
    "--trusted-type", "trusted_types", multiple=True, metavar="TYPE", help="A type that skops files may hold."
)
@click.option(
    "--database", metavar="URL", help="postgresql:// of servers that share endpoints.  [default: SQLite in --state-dir]"
)
@click.option("--describe-hold-s", type=float, help="How long DescribeEndpoint waits for news.  [default: 2]")
@click.option("--allow-path", "allow_paths", multiple=True, metavar="DIR", help="Allow file:// model data from here.")
@click.option("--with-s3", is_flag=True, default=None, help="Run an S3 of your own (SeaweedFS) on loopback.")
@click.option("--s3-port", type=int, help="Its port; 0 picks a free one.  [default: 8333]")
@click.option("--model-memory-bytes", type=int, help="What models of endpoints may take.  [default: what is free]")
@click.option(
    "--model-cache-bytes",
    type=int,
    help="What models of multi-model endpoints may take.  [default: half of what is free]",
)
@click.option("--model-cache-disk-bytes", type=int, help="The same of disk.  [default: half of what is free]")
@click.option(
    "--model-eviction", type=click.Choice(get_args(ModelEviction)), help="Which of them goes first.  [default: gdsf]"
)
@click.option("--model-load-wait-s", type=float, help="How long a request waits for its model.  [default: 60]")
@click.option("--model-load-limit-s", type=float, help="How long a load may take.  [default: 360]")
@click.option("--model-refresh-s", type=float, help="Time between two looks whether a model changed.  [default: 60]")
@click.option(
    "--multi-model", is_flag=True, default=None, help="Be a multi-model container: POST /models names models."
)
@click.option("--tls-cert", metavar="FILE", help="Certificate chain (PEM).")
@click.option("--tls-key", metavar="FILE", help="Private key (PEM).")
@click.option("--tls-client-ca", metavar="FILE", help="Authorities whose certificates callers must show (PEM).")
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
    logs.configure("supervisor", settings.log_format, settings.log_level, settings.state_dir / "logs")
    archives = Archives(settings.state_dir / "models", Limits(max_bytes=settings.max_archive_bytes))
    watched = settings.model_control_mode != "none"
    catalogue = Catalogue(settings.models, settings.model_repositories, archives, watched=watched)
    entries = catalogue.read_all()
    # What can be told before workers are started is told at once.
    first(settings, catalogue, entries)
    asyncio.run(_serve(settings, catalogue, entries, aws(os.environ)))
    # Threads of the object store's library may still be at a request that nobody waits for, and abort a usual exit.
    logging.shutdown()
    sys.stdout.flush()
    os._exit(0)


async def _serve(settings: Settings, catalogue: Catalogue, entries: Mapping[Place, Entry], store: Aws) -> None:
    await Supervisor(settings, catalogue, entries, store).run()
