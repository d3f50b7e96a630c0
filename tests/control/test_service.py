"""AWS's service models as botocore ships them."""

from __future__ import annotations

import gzip
import importlib.util
import subprocess
import sys
from pathlib import Path

import orjson
import pytest

from serving.control.service import Catalogue, Service, data_folder, read_model
from serving.errors import MissingExtra

BUILT = ["sagemaker.DescribeEndpoint", "sagemaker.DeleteModel", "sts.GetCallerIdentity", "logs.GetLogEvents"]

ENDPOINT = {
    "EndpointName": "x",
    "EndpointArn": "arn:aws:sagemaker:us-east-1:123456789012:endpoint/x",
    "EndpointStatus": "InService",
    "CreationTime": 1.5,
    "LastModifiedTime": 2,
}


@pytest.fixture(scope="module")
def sagemaker() -> Service:
    return Catalogue(BUILT).service("sagemaker")


def test_services_know_their_protocol() -> None:
    catalogue = Catalogue(BUILT)
    assert catalogue.known == {"sagemaker", "sts", "logs"}
    assert catalogue.loaded("sts") is None
    sts, logs = catalogue.service("sts"), catalogue.service("logs")
    assert catalogue.loaded("sts") is sts
    assert (sts.protocol, sts.version, sts.namespace) == (
        "query",
        "2011-06-15",
        "https://sts.amazonaws.com/doc/2011-06-15/",
    )
    assert sts.operations["GetCallerIdentity"].wrapper == "GetCallerIdentityResult"
    assert (logs.protocol, logs.target_prefix) == ("json", "Logs_20140328")
    assert "AssumeRole" in sts.names


def test_only_what_the_built_operations_reach_is_kept(sagemaker: Service) -> None:
    assert len(sagemaker.names) > 400
    assert "EndpointStatus" in sagemaker.shapes
    assert "CreateTrainingJobRequest" not in sagemaker.shapes
    assert len(sagemaker.shapes) < 150, len(sagemaker.shapes)
    assert "documentation" not in str(sagemaker.shapes)


def test_every_json_service_is_found_by_its_own_target_prefix() -> None:
    from serving.control.json_protocol import SERVICES

    for prefix, name in SERVICES.items():
        assert read_model(data_folder(), name)["metadata"]["targetPrefix"] == prefix


def test_outputs_lose_their_unset_members_and_times_are_floats(sagemaker: Service) -> None:
    document, wrong = sagemaker.check_output("DescribeEndpoint", ENDPOINT | {"FailureReason": None})
    assert wrong == []
    assert document == ENDPOINT
    assert type(document["LastModifiedTime"]) is float


@pytest.mark.parametrize(
    ("change", "path"),
    [
        ({"EndpointConfigname": "x"}, "endpointConfigname"),
        ({"EndpointName": None}, "endpointName"),
        ({"EndpointStatus": "Sleeping"}, "endpointStatus"),
        ({"FailureReason": "x" * 1025}, "failureReason"),
        ({"ProductionVariants": [{"VariantName": "v", "DesiredWeight": None, "Weight": 1}]}, "productionVariants.1"),
        ({"CreationTime": "yesterday"}, ""),
        ({"FailureReason": 1}, ""),
    ],
)
def test_outputs_that_are_not_as_the_model_says(sagemaker: Service, change: dict[str, object], path: str) -> None:
    _, wrong = sagemaker.check_output("DescribeEndpoint", ENDPOINT | change)
    assert len(wrong) == 1
    assert wrong[0].path.startswith(path)


def test_patterns_of_outputs_can_be_left_out(sagemaker: Service) -> None:
    document = ENDPOINT | {"EndpointArn": "no ARN, but long enough for one"}
    assert len(sagemaker.check_output("DescribeEndpoint", document)[1]) == 1
    assert sagemaker.check_output("DescribeEndpoint", document, patterns=False)[1] == []


def test_an_operation_without_output_has_none(sagemaker: Service) -> None:
    assert sagemaker.check_output("DeleteModel", {}) == ({}, [])
    assert len(sagemaker.check_output("DeleteModel", {"ModelName": "x"})[1]) == 1


def test_names_of_other_services_are_known_and_paths_are_none() -> None:
    catalogue = Catalogue(BUILT)
    assert catalogue.is_of_aws("ecr")
    assert catalogue.is_of_aws("application-autoscaling")
    for name in ("", ".", "..", "../data", "sagemaker/2017-07-24", "nothing-there", "endpoints.json", "e\x00r"):
        assert not catalogue.is_of_aws(name), name


def test_the_newest_version_is_read(tmp_path: Path) -> None:
    for version in ("2019-12-31", "2020-01-02", "2020-01-01"):
        (tmp_path / "thing" / version).mkdir(parents=True)
        text = orjson.dumps({"metadata": {"apiVersion": version}})
        (tmp_path / "thing" / version / "service-2.json.gz").write_bytes(gzip.compress(text))
    (tmp_path / "thing" / "2021-01-01").mkdir()
    assert read_model(tmp_path, "thing")["metadata"]["apiVersion"] == "2020-01-02"


def test_a_missing_model_or_botocore_names_the_extra(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(MissingExtra, match=r"serving\[control\]"):
        read_model(tmp_path, "sagemaker")
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(
        MissingExtra, match=r"botocore package, which is not installed: pip install 'serving\[control\]'"
    ):
        Catalogue(BUILT)


def test_botocore_itself_is_never_imported() -> None:
    program = (
        "import sys; from serving.control.service import Catalogue; "
        "Catalogue(['sagemaker.CreateModel']).service('sagemaker').read('CreateModel', {'ModelName': 'x'}); "
        "assert 'botocore' not in sys.modules"
    )
    subprocess.run([sys.executable, "-c", program], check=True, timeout=60)
