"""Every setting of the server, typed and checked at start, from flags > environment > file > default.

Each field may be given as the flag `--max-body-bytes`, as `SERVING_MAX_BODY_BYTES` in the environment (lists with
commas), or as `max_body_bytes` in the YAML file that `--config` or `SERVING_CONFIG` names. Nothing else reads the
environment.
"""

from __future__ import annotations

import difflib
import ipaddress
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Annotated, Any, Final, Literal, get_args, get_origin

import msgspec
import yaml
from msgspec import Meta, field

from serving.errors import ConfigurationError

PREFIX: Final = "SERVING_"

MEBIBYTE: Final = 1024 * 1024

Port = Annotated[int, Meta(ge=0, le=65535)]
Count = Annotated[int, Meta(ge=1)]
Bytes = Annotated[int, Meta(ge=1)]
Seconds = Annotated[float, Meta(gt=0, le=86_400)]
LogFormat = Literal["human", "json"]
LogLevel = Literal["debug", "info", "warning", "error"]
ModelControlMode = Literal["none", "poll", "explicit"]
ModelEviction = Literal["gdsf", "lru"]
GrpcTransport = Literal["grpcio", "h2corn"]
Region = Annotated[str, Meta(pattern=r"^[a-z]{2,}(-[a-z]+)+-[0-9]+$")]
AccountId = Annotated[str, Meta(pattern=r"^[0-9]{12}$")]


class Settings(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """The settings of one server.

    `models` are paths or NAME=PATH; `model_repositories` folders of models; `default_model` the one that
    `/invocations` asks where several are served. `model_control_mode`: `none` loads all at start and never again, `poll`
    follows the files every `repository_poll_s` seconds, `explicit` loads `load_model` (`*`: all) at start and then what
    the repository API is told. `max_connections`, `max_in_flight_bytes` hold for each worker.
    `allow_unauthenticated` lets others than this machine call a server that checks no caller's identity.
    `allow_pickle` lets models that are pickles run their code in the workers; `trusted_types` are types that skops files
    may hold beside the usual ones. `response_cache_bytes`: what each worker may keep of answers, for models that ask
    for it (`response_cache`); 0 keeps none.
    `database` is where the control plane keeps its resources, `postgresql://USER:PASSWORD@HOST/NAME` where several servers
    share it; None is a SQLite file in `state_dir`. `describe_hold_s`: how long DescribeEndpoint is held while its answer
    would be Creating or Updating. `allow_paths`: folders from which `file://` model data may be read. `with_s3` runs
    an S3 of one's own on `s3_port`, its files in `state_dir`. `images` maps further image names to container kinds.
    `model_memory_bytes`: what the models of endpoints may take in all; None asks the system what is free.
    `model_cache_bytes`: what the models of multi-model endpoints may take of memory, in all workers together, and
    `model_cache_disk_bytes` of disk; None is half of what is free at start. `model_eviction`: which of them goes first.
    `model_load_wait_s`: how long a request waits for its model to be loaded at most, `model_load_limit_s`: how long a load
    may take. `model_refresh_s`: how long a model is served before the object store is asked whether it changed.
    `multi_model`: the server is a multi-model container, whose models `POST /models` names.
    `grpc_port` is where the Open Inference Protocol is served over gRPC, with Triton's extensions (Triton's port is 8001);
    None serves none. `grpc_transport` carries it: `grpcio`, the library of the gRPC project, or `h2corn`. A request message may
    have `max_body_bytes`, its metadata `max_header_bytes`.
    `tls_cert` and `tls_key` are of both ports. `tls_client_ca`: callers of both must show a certificate that one of these
    authorities has signed; None asks for none.
    `allowed_hosts` are Host names beside the loopback ones, `allowed_origins` the web pages that may call.
    Port 0 takes a free one.
    """

    host: str = "127.0.0.1"
    port: Port = 8080
    grpc_port: Port | None = None
    grpc_transport: GrpcTransport = "grpcio"
    state_dir: Path = field(default_factory=lambda: _state_dir({}))
    models: tuple[str, ...] = ()
    model_repositories: tuple[Path, ...] = ()
    default_model: str | None = None
    model_control_mode: ModelControlMode = "none"
    repository_poll_s: Seconds = 5.0
    load_model: tuple[str, ...] = ()
    workers: Annotated[int, Meta(ge=1, le=256)] = 1
    log_format: LogFormat = "human"
    log_level: LogLevel = "info"
    # The largest body that SageMaker's real-time endpoints take.
    max_body_bytes: Bytes = 25 * MEBIBYTE
    max_header_bytes: Annotated[int, Meta(ge=256)] = 32 * 1024
    max_headers: Count = 100
    header_timeout_s: Seconds = 10.0
    body_timeout_s: Seconds = 60.0
    keep_alive_timeout_s: Seconds = 75.0
    max_connections: Count = 16384
    max_in_flight_bytes: Bytes = 512 * MEBIBYTE
    drain_timeout_s: Annotated[float, Meta(ge=0, le=86_400)] = 30.0
    region: Region = "us-east-1"
    account_id: AccountId = "123456789012"
    database: str | None = None
    describe_hold_s: Annotated[float, Meta(ge=0, le=30)] = 2.0
    allow_paths: tuple[Path, ...] = ()
    with_s3: bool = False
    s3_port: Port = 8333
    images: Mapping[str, str] = {}
    model_memory_bytes: Bytes | None = None
    model_cache_bytes: Bytes | None = None
    model_cache_disk_bytes: Bytes | None = None
    model_eviction: ModelEviction = "gdsf"
    model_load_wait_s: Seconds = 60.0
    model_load_limit_s: Seconds = 360.0
    model_refresh_s: Seconds = 60.0
    multi_model: bool = False
    tls_cert: Path | None = None
    tls_key: Path | None = None
    tls_client_ca: Path | None = None
    allowed_hosts: tuple[str, ...] = ()
    allowed_origins: tuple[str, ...] = ()
    allow_unauthenticated: bool = False
    allow_pickle: bool = False
    trusted_types: tuple[str, ...] = ()
    response_cache_bytes: Annotated[int, Meta(ge=0)] = 0
    max_archive_bytes: Bytes = 10 * 1024 * MEBIBYTE


class Aws(msgspec.Struct, frozen=True, kw_only=True):
    """What the usual AWS_* variables say of the object store; kept from workers, logs and every answer."""

    access_key_id: str | None = None
    secret_access_key: str | None = None
    session_token: str | None = None
    region: str | None = None
    endpoint_url: str | None = None
    """Where S3 is; None is AWS's own."""


def aws(environ: Mapping[str, str]) -> Aws:
    """The object store of the environment. Source: "Environment variables" of the AWS SDKs and Tools reference guide."""
    read = {name: value for name, value in environ.items() if name.startswith("AWS_") and value}
    return Aws(
        access_key_id=read.get("AWS_ACCESS_KEY_ID"),
        secret_access_key=read.get("AWS_SECRET_ACCESS_KEY"),
        session_token=read.get("AWS_SESSION_TOKEN"),
        region=read.get("AWS_REGION") or read.get("AWS_DEFAULT_REGION"),
        endpoint_url=read.get("AWS_ENDPOINT_URL_S3") or read.get("AWS_ENDPOINT_URL"),
    )


FIELDS: Final = {one.name: one for one in msgspec.structs.fields(Settings)}


def load(flags: Mapping[str, object], environ: Mapping[str, str]) -> Settings:
    """The settings of a start. Raises `ConfigurationError`, which names the source and the key.

    `flags` maps field names to values (and `config` to the file); None and empty sequences mean that a flag was not
    given.
    """
    given = {name: value for name, value in flags.items() if value is not None and value not in ((), [])}
    variables = {name.removeprefix(PREFIX).lower(): value for name, value in environ.items() if name.startswith(PREFIX)}
    file = given.pop("config", variables.pop("config", None))
    values: dict[str, Any] = {"state_dir": _state_dir(environ)}
    if file is not None:
        values |= _read(Path(str(file)))
    for name, text in variables.items():
        values[name] = _value(f"{PREFIX}{name.upper()}", name, _split(name, text), strict=False)
    for name, value in given.items():
        values[name] = _value(f"--{name.replace('_', '-')}", name, value)
    settings = Settings(**values)
    _check(settings)
    return settings


def _state_dir(environ: Mapping[str, str]) -> Path:
    """Where the XDG base directory specification puts a user's state."""
    home = environ.get("XDG_STATE_HOME", "")
    return (Path(home) if home.startswith("/") else Path.home() / ".local" / "state") / "serving"


def _read(file: Path) -> dict[str, Any]:
    try:
        document = yaml.safe_load(file.expanduser().read_bytes())
    except OSError as error:
        raise ConfigurationError(f"the settings file {file} cannot be read: {error.strerror}") from error
    except (yaml.YAMLError, UnicodeError, RecursionError) as error:
        raise ConfigurationError(f"the settings file {file} is not YAML: {' '.join(str(error).split())}") from error
    if document is None:
        return {}
    if not isinstance(document, dict):
        raise ConfigurationError(f"the settings file {file} holds {_kind(document)}; `key: value` was expected")
    return {str(name): _value(f"{name} in {file}", str(name), value) for name, value in document.items()}


def _value(source: str, name: str, value: object, *, strict: bool = True) -> Any:
    """One setting in its own type; `source` is what the error calls it."""
    if name not in FIELDS:
        raise ConfigurationError(f"{source}: there is no such setting{_nearest(name, FIELDS)}")
    if name == "account_id" and isinstance(value, int) and len(str(value)) == 12:
        # YAML reads digits as a number (and those after a zero as an octal one, which stays an error).
        value = str(value)
    try:
        return msgspec.convert(value, FIELDS[name].type, strict=strict, dec_hook=_decode)
    except msgspec.ValidationError as error:
        choices = get_args(FIELDS[name].type) if get_origin(FIELDS[name].type) is Literal else ()
        expected = f"one of {', '.join(choices)} was expected" if choices else str(error).replace("`", "")
        raise ConfigurationError(f"{source} is {value!r}: {expected}") from error


def _split(name: str, text: str) -> object:
    many = name in FIELDS and isinstance(FIELDS[name].default, tuple)
    return [part.strip() for part in text.split(",") if part.strip()] if many else text


def _decode(wanted: type, value: Any) -> Any:
    if wanted is Path and isinstance(value, str | Path) and str(value):
        return Path(value).expanduser()
    raise ValueError("a path was expected")


def _check(settings: Settings) -> None:
    """Refuses settings that cannot be honoured together."""
    if settings.grpc_port is not None and settings.grpc_port == settings.port != 0:
        raise ConfigurationError(f"grpc_port and port are both {settings.port}; gRPC needs a port of its own")
    if (settings.tls_cert is None) != (settings.tls_key is None):
        given, missing = ("tls_cert", "tls_key") if settings.tls_key is None else ("tls_key", "tls_cert")
        raise ConfigurationError(f"{given} is set without {missing}; TLS needs both")
    if settings.tls_client_ca is not None and settings.tls_cert is None:
        raise ConfigurationError("tls_client_ca is set without tls_cert and tls_key; callers' certificates need TLS")
    for name in ("tls_cert", "tls_key", "tls_client_ca"):
        path = getattr(settings, name)
        if path is not None and not path.is_file():
            raise ConfigurationError(f"{name} is {path}, where there is no file")
    if not settings.host:
        raise ConfigurationError("host is empty; an address such as 127.0.0.1 was expected")
    if not settings.allow_unauthenticated and not is_loopback(settings.host):
        raise ConfigurationError(
            f"host is {settings.host}, which other machines can reach, and this server does not check who calls: "
            "put it behind a proxy that does, or say that everybody may call with --allow-unauthenticated; "
            "--host 127.0.0.1 serves this machine only"
        )
    if settings.load_model and settings.model_control_mode != "explicit":
        raise ConfigurationError(
            f"load_model is set, but model_control_mode is {settings.model_control_mode}, in which all models are loaded; "
            "--model-control-mode explicit loads those that are named"
        )
    if settings.multi_model and (settings.models or settings.model_repositories):
        raise ConfigurationError(
            "multi_model is set, and so are models: a multi-model container begins empty, and POST /models names its "
            "models; leave out --model and --model-repository"
        )
    if "*" in settings.load_model and len(settings.load_model) > 1:
        raise ConfigurationError("load_model is * and other names; * alone loads all models")
    if settings.max_in_flight_bytes < settings.max_body_bytes:
        raise ConfigurationError(
            f"max_in_flight_bytes is {settings.max_in_flight_bytes}, below max_body_bytes ({settings.max_body_bytes}), "
            "so the largest body would not fit"
        )


def is_loopback(host: str) -> bool:
    """Whether only this machine can reach a server that listens there."""
    try:
        return ipaddress.ip_address(host.strip("[]")).is_loopback
    except ValueError:
        return host == "localhost"


def _nearest(name: str, known: Iterable[str]) -> str:
    near = difflib.get_close_matches(name, known, n=1, cutoff=0.0)
    return f"; the nearest is {near[0]}" if near else ""


def _kind(document: object) -> str:
    return "a list" if isinstance(document, list) else f"{document!r:.40}"
