"""`serving deploy`: a model on this machine or in S3 becomes an endpoint, by the calls that any client of SageMaker makes."""

from __future__ import annotations

import re
import sys
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack, suppress
from pathlib import Path
from typing import Any, Final

import click
import msgspec

from serving.cli import table
from serving.cli.api import Api, calling, described, target
from serving.cli.pack import Packed, pack
from serving.errors import ObjectMissing, ServingError
from serving.objects import repository
from serving.objects.archive import Archives
from serving.objects.repository import ARCHIVE_SUFFIXES, ENDPOINT_NAME

INSTANCE_TYPE: Final = "ml.m5.large"
"""Endpoint configs must name one; here every endpoint runs on this server."""

_CHANGING: Final = frozenset({"Creating", "Updating"})
_POLL_S: Final = 0.25


ANY_KIND: Final = "triton"
"""The image of a multi-model endpoint where none is named: each model may be of any kind."""

PINNED: Final = "SERVING_PINNED_MODELS"


class Model(msgspec.Struct, frozen=True):
    """What a container is made of: image, where its data is (as CreateModel says it), and a short name of the content."""

    image: str
    data: Mapping[str, Any]
    digest: str


@click.command()
@click.argument("name")
@click.argument("model")
@target
@click.option(
    "--image", help="The container: onnx, xgboost, ... or a SageMaker image.  [default: by the model's files]"
)
@click.option("--instance-count", type=click.IntRange(min=1), default=1, show_default=True)
@click.option("--env", "variables", multiple=True, metavar="K=V", help="A variable of the container.")
@click.option("--variant", default="AllTraffic", show_default=True, help="The production variant's name.")
@click.option("--multi-model", is_flag=True, help="MODEL is a folder of models, each loaded when it is asked for.")
@click.option("--pin", "pinned", multiple=True, metavar="TARGET", help="One of them that stays loaded.")
@click.option("--update", is_flag=True, help="Where the endpoint exists, put this model in its place.")
@click.option("--no-wait", is_flag=True, help="Do not wait until it serves.")
def deploy(
    name: str,
    model: str,
    url: str | None,
    state_dir: str | None,
    image: str | None,
    instance_count: int,
    variables: Sequence[str],
    variant: str,
    multi_model: bool,
    pinned: Sequence[str],
    update: bool,
    no_wait: bool,
) -> None:
    """Deploys MODEL as the endpoint NAME and tells how to call it.

    MODEL is a model's file, a directory of a model, a model.tar.gz, or an s3:// URL of an archive, of a .onnx file or (with
    a slash at its end) of a folder. What lies on this machine is uploaded to the bucket sagemaker-REGION-ACCOUNT first.

    With --multi-model it is an s3:// URL below which models lie, a model.tar.gz each, or a folder of this machine, which the
    server must be allowed to read (--allow-path): nothing is uploaded, and callers name the model they want.
    """
    for role, text in (("name", name), ("variant", variant)):
        if not ENDPOINT_NAME.fullmatch(text):
            raise click.ClickException(
                f"'{text}' cannot be the {role} of an endpoint: 1 to 63 letters, digits and single '-' inside were expected"
            )
    environment = dict(_variable(text) for text in variables) | _pins(pinned, multi_model=multi_model)
    with calling(url, state_dir) as api:
        client = api.client("sagemaker")
        before = described(client.describe_endpoint, EndpointName=name)
        if before is not None:
            _check_replaceable(name, str(before["EndpointStatus"]), update=update)
        if multi_model:
            made = _many(model, image)
        else:
            made = _remote(model, image) if "://" in model else _upload(api, Path(model).expanduser(), name, image)
        container = {"Image": made.image, **made.data} | ({"Environment": environment} if environment else {})
        variant_of = {"VariantName": variant, "InitialInstanceCount": instance_count, "InstanceType": INSTANCE_TYPE}
        unique = unique_name(name, made.digest, time.time())
        started = time.monotonic()
        _call(api, client, name, unique, container, variant_of, is_update=before is not None)
        if no_wait:
            click.echo(f"{name}: {'Updating' if before is not None else 'Creating'}")
            return
        _wait(client, name, unique, started)
        click.echo(
            f"{name}: InService after {time.monotonic() - started:.1f} s\n\n{how_to_call(api, name, multi_model=multi_model)}"
        )


def _check_replaceable(name: str, status: str, *, update: bool) -> None:
    """Refuses to deploy where an endpoint is that is not to be replaced or cannot be; before anything is uploaded."""
    if status == "Failed":
        raise click.ClickException(
            f"endpoint {name} exists and is Failed, and so cannot be updated: `serving delete {name}` removes it"
        )
    if not update:
        raise click.ClickException(
            f"endpoint {name} exists and is {status}: --update puts this model in its place without a lost request, "
            f"`serving delete {name}` removes it"
        )


def _variable(text: str) -> tuple[str, str]:
    name, equals, value = text.partition("=")
    if not equals or not re.fullmatch(r"[a-zA-Z_][a-zA-Z0-9_]*", name):
        raise click.ClickException(f"--env {text}: NAME=VALUE was expected")
    return name, value


def _pins(pinned: Sequence[str], *, multi_model: bool) -> dict[str, str]:
    """The variable that names the models which stay loaded."""
    if pinned and not multi_model:
        raise click.ClickException("--pin: only an endpoint with --multi-model has models to pin")
    for name in pinned:
        if "," in name:
            raise click.ClickException(f"--pin {name}: the name of a pinned model cannot have a comma in it")
    return {PINNED: ",".join(pinned)} if pinned else {}


def unique_name(name: str, digest: str, now: float) -> str:
    """A name of at most 63 letters for a model and a config of this content, made now (epoch seconds)."""
    moment = f"{time.strftime('%Y%m%d%H%M%S', time.gmtime(now))}{int(now * 1000) % 1000:03d}"
    suffix = f"-{digest[:8]}-{moment}"
    return name[: 63 - len(suffix)].rstrip("-") + suffix


# ---------------------------------------------------------------- the model's data


def _many(place: str, image: str | None) -> Model:
    """The models below a URL, or in a folder of this machine."""
    url = place
    if "://" not in place:
        folder = Path(place).expanduser().resolve()
        if not folder.is_dir():
            raise click.ClickException(f"{place}: a folder of models was expected")
        url = folder.as_uri()
    if not re.fullmatch(r"(s3://[^/]+|file://)(/.*)?", url):
        raise click.ClickException(f"{url} is not an s3:// URL of a bucket and a prefix")
    data = {"ModelDataUrl": url if url.endswith("/") else f"{url}/", "Mode": "MultiModel"}
    return Model(image or ANY_KIND, data, "many")


def _remote(url: str, image: str | None) -> Model:
    """A model that lies in S3 already."""
    if not re.fullmatch(r"(s3|file)://[^/]*/.+", url):
        raise click.ClickException(f"{url} is not an s3:// URL of a bucket and a key")
    if image is None and url.endswith(".onnx"):
        image = "onnx"
    if image is None:
        raise click.ClickException(
            f"{url}: what it holds is only known once it is fetched; name the container with --image"
        )
    # A key says nothing of the content; the name's other half tells one deployment from the next.
    digest = "s3"
    if url.endswith(ARCHIVE_SUFFIXES):
        return Model(image, {"ModelDataUrl": url}, digest)
    kind = "S3Prefix" if url.endswith("/") else "S3Object"
    source = {"S3Uri": url, "S3DataType": kind, "CompressionType": "None"}
    return Model(image, {"ModelDataSource": {"S3DataSource": source}}, digest)


def _upload(api: Api, path: Path, name: str, image: str | None) -> Model:
    """Packs a model of this machine and puts it into S3, unless its content is there."""
    if not path.exists():
        raise click.ClickException(f"{path}: there is no such file or directory")
    # What is missing for the upload is told before a large model is packed.
    store = api.store()
    bucket = f"sagemaker-{api.server.region}-{api.account()}"
    with tempfile.TemporaryDirectory(prefix="serving-deploy-") as scratch:
        packed = pack(path, Path(scratch) / repository.PACKED)
        image = image or _kind(packed, path, name, Path(scratch))
        url = f"s3://{bucket}/serving/{packed.digest}/{repository.PACKED}"
        from serving.objects.store import open_store

        _bucket(api, store, bucket)
        objects = open_store(store, ())
        try:
            try:
                there = objects.head(url).size == packed.file.stat().st_size
            except ObjectMissing:
                there = False
            if not there:
                _progress(f"uploading {packed.file.stat().st_size / 1e6:.1f} MB to {bucket}")
                objects.put(url, packed.file)
        except ServingError as error:
            raise click.ClickException(table.cell(error.message)) from error
    return Model(image, {"ModelDataUrl": url}, packed.digest)


def _kind(packed: Packed, path: Path, name: str, scratch: Path) -> str:
    """The container kind that would serve the archive; looked at as the server will look at it."""
    try:
        (source, *_) = repository.look(packed.file, name, Archives(scratch / "unpacked")).served()
    except ServingError as error:
        raise click.ClickException(table.cell(error.message.replace(str(packed.file), str(path)))) from error
    return source.container


def _bucket(api: Api, store: Any, bucket: str) -> None:
    """Makes the bucket where it is not there."""
    client = api.buckets(store)
    try:
        client.head_bucket(Bucket=bucket)
    except client.exceptions.ClientError as error:
        if error.response["ResponseMetadata"]["HTTPStatusCode"] != 404:
            raise
        # AWS's oldest region may not be named.
        place = {"CreateBucketConfiguration": {"LocationConstraint": api.server.region}}
        with suppress(client.exceptions.BucketAlreadyOwnedByYou):
            client.create_bucket(Bucket=bucket, **({} if api.server.region == "us-east-1" else place))


# ---------------------------------------------------------------- the calls


def _call(
    api: Api,
    client: Any,
    name: str,
    unique: str,
    container: Mapping[str, Any],
    variant: Mapping[str, Any],
    *,
    is_update: bool,
) -> None:
    """Makes the model, the config and the endpoint; what was made goes again where a later call is refused."""
    role = f"arn:aws:iam::{api.account()}:role/serving"
    with ExitStack() as undo:
        client.create_model(ModelName=unique, PrimaryContainer=container, ExecutionRoleArn=role)
        undo.callback(_quietly, client.delete_model, ModelName=unique)
        variants = [{"ModelName": unique, **variant}]
        client.create_endpoint_config(EndpointConfigName=unique, ProductionVariants=variants)
        undo.callback(_quietly, client.delete_endpoint_config, EndpointConfigName=unique)
        change = client.update_endpoint if is_update else client.create_endpoint
        change(EndpointName=name, EndpointConfigName=unique)
        undo.pop_all()


def _quietly(call: Callable[..., object], **parameters: str) -> None:
    """Takes a call back; what was wrong before it is what is told."""
    with suppress(Exception):
        call(**parameters)


def _wait(client: Any, name: str, config: str, started: float) -> None:
    """Waits until the endpoint serves the config. Raises `click.ClickException` where it does not."""
    while True:
        asked = time.monotonic()
        document = client.describe_endpoint(EndpointName=name)
        status = document["EndpointStatus"]
        if status not in _CHANGING:
            break
        _progress(f"{name}: {status}, {time.monotonic() - started:.0f} s")
        # The server holds the answer until the status changes; one that does not is not asked without a pause.
        time.sleep(max(0.0, _POLL_S - (time.monotonic() - asked)))
    _progress("")
    if status == "InService" and document["EndpointConfigName"] == config:
        return
    kept = "; it serves what it served before" if status == "InService" else ""
    reason = table.cell(document.get("FailureReason", "no reason was given"))
    raise click.ClickException(f"endpoint {name} is {status}{kept}: {reason}")


def _progress(text: str) -> None:
    """Shows a line in the place of the last one, on a terminal alone."""
    if sys.stderr.isatty():
        click.echo(f"\r\x1b[K{text}", err=True, nl=False)


def how_to_call(api: Api, name: str, *, multi_model: bool = False) -> str:
    """The calls to paste."""
    url, region = api.server.url, api.server.region
    header = " -H 'X-Amzn-SageMaker-Target-Model: model.tar.gz'" if multi_model else ""
    argument = 'TargetModel="model.tar.gz", ' if multi_model else ""
    return (
        f"curl {url}/endpoints/{name}/invocations{header} -H 'Content-Type: text/csv' --data-binary @rows.csv\n\n"
        "import boto3\n"
        f'runtime = boto3.client("sagemaker-runtime", endpoint_url="{url}", region_name="{region}")\n'
        f'answer = runtime.invoke_endpoint(EndpointName="{name}", {argument}ContentType="text/csv", '
        'Body=open("rows.csv", "rb"))\n'
        'print(answer["Body"].read().decode())\n\n'
        "(boto3 needs keys, whichever: eval $(serving env))"
    )
