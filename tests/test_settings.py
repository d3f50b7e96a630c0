"""Settings: four sources in their order, and an error for all that cannot be honoured."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from serving.errors import ConfigurationError
from serving.settings import FIELDS, Settings, is_loopback, load


def yaml(directory: Path, text: str) -> Path:
    file = directory / "serving.yaml"
    file.write_text(text)
    return file


def test_the_defaults() -> None:
    settings = load({}, {})
    assert settings == Settings()
    assert (settings.host, settings.port, settings.workers) == ("127.0.0.1", 8080, 1)
    assert settings.max_body_bytes == 25 * 1024 * 1024


def test_flags_before_environment_before_file_before_default(tmp_path: Path) -> None:
    file = yaml(tmp_path, "port: 1\nworkers: 2\nlog_level: debug\n")
    environ = {"SERVING_PORT": "3", "SERVING_WORKERS": "4", "UNRELATED": "5"}
    assert load({"config": file}, {}).port == 1
    assert load({"config": str(file)}, environ).port == 3
    assert load({"config": file, "port": 6}, environ).port == 6
    settings = load({"config": file, "port": 6, "workers": None}, environ)
    assert (settings.port, settings.workers, settings.log_level, settings.log_format) == (6, 4, "debug", "human")


def test_the_environment_may_name_the_file(tmp_path: Path) -> None:
    file, other = yaml(tmp_path, "port: 1"), tmp_path / "other.yaml"
    other.write_text("port: 2")
    assert load({}, {"SERVING_CONFIG": str(file)}).port == 1
    assert load({"config": other}, {"SERVING_CONFIG": str(file)}).port == 2


def test_an_empty_file_says_nothing(tmp_path: Path) -> None:
    assert load({"config": yaml(tmp_path, "# nothing\n")}, {}) == Settings()


def test_every_type_can_come_from_the_environment() -> None:
    settings = load(
        {},
        {
            "SERVING_MODELS": "a.onnx, b=c.onnx,",
            "SERVING_MODEL_REPOSITORIES": "/srv/models",
            "SERVING_HEADER_TIMEOUT_S": "2.5",
            "SERVING_ALLOW_UNAUTHENTICATED": "true",
            "SERVING_DEFAULT_MODEL": "b",
            "SERVING_ACCOUNT_ID": "000000000001",
        },
    )
    assert settings.models == ("a.onnx", "b=c.onnx")
    assert settings.model_repositories == (Path("/srv/models"),)
    assert settings.header_timeout_s == 2.5
    assert settings.allow_unauthenticated is True
    assert settings.default_model == "b"
    assert settings.account_id == "000000000001"


def test_lists_that_were_not_given_do_not_hide_the_file(tmp_path: Path) -> None:
    file = yaml(tmp_path, "models: [a.onnx]\nmodel_repositories: [~/models]\n")
    settings = load({"config": file, "models": (), "model_repositories": []}, {})
    assert settings.models == ("a.onnx",)
    assert settings.model_repositories == (Path.home() / "models",)


def test_where_state_goes() -> None:
    assert load({}, {"XDG_STATE_HOME": "/var/state"}).state_dir == Path("/var/state/serving")
    assert load({}, {"XDG_STATE_HOME": "relative"}).state_dir == Path.home() / ".local/state/serving"
    assert load({"state_dir": Path("here")}, {"XDG_STATE_HOME": "/var/state"}).state_dir == Path("here")


def test_an_account_that_yaml_reads_as_a_number(tmp_path: Path) -> None:
    assert load({"config": yaml(tmp_path, "account_id: 210987654321")}, {}).account_id == "210987654321"
    with pytest.raises(ConfigurationError, match="account_id"):
        load({"config": yaml(tmp_path, "account_id: 012345670123")}, {})


@pytest.mark.parametrize("host", ["127.0.0.1", "127.9.9.9", "::1", "localhost"])
def test_loopback_hosts_need_no_leave(host: str) -> None:
    assert is_loopback(host)
    assert load({"host": host}, {}).host == host


@pytest.mark.parametrize("host", ["0.0.0.0", "::", "10.0.0.1", "example.com", "localhost.example.com"])
def test_other_hosts_need_leave(host: str) -> None:
    with pytest.raises(
        ConfigurationError, match=r"which other machines can reach.*--allow-unauthenticated; --host 127"
    ):
        load({"host": host}, {})
    assert load({"host": host, "allow_unauthenticated": True}, {}).host == host


@pytest.mark.parametrize(
    ("flags", "environ", "message"),
    [
        ({"prot": 1}, {}, "--prot: there is no such setting; the nearest is port"),
        ({}, {"SERVING_WORKRES": "1"}, "SERVING_WORKRES: there is no such setting; the nearest is workers"),
        ({}, {"SERVING_": "1"}, "SERVING_: there is no such setting"),
        ({"port": 65536}, {}, "--port is 65536: Expected int <= 65535"),
        ({"port": -1}, {}, "--port is -1: Expected int >= 0"),
        ({"port": "80"}, {}, "--port is '80': Expected int, got str"),
        ({}, {"SERVING_PORT": "http"}, "SERVING_PORT is 'http': Expected int, got str"),
        ({}, {"SERVING_PORT": ""}, "SERVING_PORT is ''"),
        ({"workers": 0}, {}, "--workers is 0: Expected int >= 1"),
        ({"log_format": "xml"}, {}, "--log-format is 'xml': one of human, json was expected"),
        ({"log_level": "DEBUG"}, {}, "--log-level is 'DEBUG': one of debug, info, warning, error was expected"),
        ({"max_body_bytes": 0}, {}, "--max-body-bytes is 0"),
        ({"header_timeout_s": 0}, {}, "--header-timeout-s is 0: Expected float > 0.0"),
        ({}, {"SERVING_BODY_TIMEOUT_S": "nan"}, "SERVING_BODY_TIMEOUT_S is 'nan'"),
        ({}, {"SERVING_BODY_TIMEOUT_S": "inf"}, "SERVING_BODY_TIMEOUT_S is 'inf'"),
        ({"max_headers": 1.5}, {}, "--max-headers is 1.5"),
        ({"region": "Mars"}, {}, "--region is 'Mars'"),
        ({"account_id": "12"}, {}, "--account-id is '12'"),
        ({"host": ""}, {}, "host is empty"),
        ({"grpc_port": 8001, "port": 8001}, {}, "grpc_port and port are both 8001; gRPC needs a port of its own"),
        ({"grpc_transport": "http"}, {}, "--grpc-transport is 'http': one of grpcio, h2corn was expected"),
        ({"tls_client_ca": "x.pem"}, {}, "tls_client_ca is set without tls_cert and tls_key"),
        ({"tls_cert": "x.pem"}, {}, "tls_cert is set without tls_key; TLS needs both"),
        ({"tls_key": "x.pem"}, {}, "tls_key is set without tls_cert; TLS needs both"),
        ({"tls_cert": "gone.pem", "tls_key": "gone.pem"}, {}, "tls_cert is gone.pem, where there is no file"),
        ({"max_in_flight_bytes": 1000}, {}, "max_in_flight_bytes is 1000, below max_body_bytes"),
        ({"state_dir": ""}, {}, "--state-dir is ''"),
        ({"config": "/gone.yaml"}, {}, "the settings file /gone.yaml cannot be read: No such file or directory"),
    ],
)
def test_what_cannot_be_honoured_is_an_error(flags: dict[str, object], environ: dict[str, str], message: str) -> None:
    with pytest.raises(ConfigurationError, match=re.escape(message)) as caught:
        load(flags, environ)
    assert "\n" not in caught.value.message


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("prot: 1", "prot in FILE: there is no such setting; the nearest is port"),
        ("port: '80'", "port in FILE is '80': Expected int, got str"),
        ("models: a.onnx", "models in FILE is 'a.onnx': Expected array, got str"),
        ("1: 2", "1 in FILE: there is no such setting"),
        ("- a", "the settings file FILE holds a list; `key: value` was expected"),
        ("text", "the settings file FILE holds 'text'"),
        ("a: [", "the settings file FILE is not YAML"),
        ("config: other.yaml", "config in FILE: there is no such setting"),
    ],
)
def test_a_bad_file_is_an_error_with_file_and_key(tmp_path: Path, text: str, message: str) -> None:
    file = yaml(tmp_path, text)
    with pytest.raises(ConfigurationError, match=re.escape(message.replace("FILE", str(file)))) as caught:
        load({"config": file}, {})
    assert "\n" not in caught.value.message


def test_units_are_in_the_names() -> None:
    for name, field in FIELDS.items():
        if "timeout" in name:
            assert name.endswith("_s"), name
        elif (
            isinstance(field.default, int)
            and field.default > 4096
            and name not in ("port", "s3_port", "max_connections")
        ):
            assert name.endswith("_bytes"), name


def test_settings_cannot_be_changed() -> None:
    with pytest.raises(AttributeError):
        load({}, {}).port = 1  # type: ignore[misc]
