"""A notebook with the SageMaker SDK v3: its resource classes deploy an ONNX graph that answers CSV, JSON and NPY."""

import io
import json
import sys
import time
from pathlib import Path

import boto3
import numpy as np
from botocore.exceptions import ClientError
from sagemaker.core.resources import Endpoint, EndpointConfig, Model, Tag
from sagemaker.core.shapes import ContainerDefinition, ProductionVariant
from sagemaker.core.utils.exceptions import FailedStatusError

archive, rows_file, report = map(Path, sys.argv[1:])
rows = np.load(rows_file)
role = "arn:aws:iam::123456789012:role/serving"

s3 = boto3.client("s3")
s3.create_bucket(Bucket="sdk3-onnx")
s3.upload_file(str(archive), "sdk3-onnx", "classifier/model.tar.gz")

began = time.monotonic()
model = Model.create(
    model_name="sdk3-onnx",
    primary_container=ContainerDefinition(image="onnx", model_data_url="s3://sdk3-onnx/classifier/model.tar.gz"),
    execution_role_arn=role,
    tags=[{"key": "team", "value": "payments"}],
)
variant = ProductionVariant(
    variant_name="AllTraffic", model_name=model.model_name, instance_type="ml.m5.large", initial_instance_count=1
)
config = EndpointConfig.create(endpoint_config_name="sdk3-onnx", production_variants=[variant])
endpoint = Endpoint.create(endpoint_name="sdk3-onnx", endpoint_config_name=config)
endpoint.wait_for_status("InService")
found = {"seconds": time.monotonic() - began}

as_csv = "\n".join(",".join(map(str, row)) for row in rows.tolist())
found["csv"] = endpoint.invoke(body=as_csv, content_type="text/csv", accept="text/csv").body.read().decode()
as_json = json.dumps({"instances": rows.tolist()})
answer = endpoint.invoke(body=as_json, content_type="application/json", accept="application/json")
found["json"] = json.load(answer.body)
as_npy = io.BytesIO()
np.save(as_npy, rows)
answer = endpoint.invoke(body=as_npy.getvalue(), content_type="application/x-npy", accept="application/x-npy")
found["npy"] = np.load(io.BytesIO(answer.body.read())).tolist()
found["variant"] = answer.invoked_production_variant

found["listed"] = [
    [one.endpoint_name for one in Endpoint.get_all(name_contains="sdk3-onnx")],
    [one.endpoint_config_name for one in EndpointConfig.get_all(name_contains="sdk3-onnx")],
    [one.model_name for one in Model.get_all(name_contains="sdk3-onnx")],
]
found["tags"] = [[tag.key, tag.value] for tag in Tag.get_all(resource_arn=model.model_arn)]
found["echoed"] = Model.get(model_name="sdk3-onnx").primary_container.model_data_url

EndpointConfig.create(endpoint_config_name="sdk3-onnx-next", production_variants=[variant])
endpoint.endpoint_config_name = "sdk3-onnx-next"
began = time.monotonic()
endpoint.update().wait_for_status("InService")
found["updated_seconds"] = time.monotonic() - began
found["updated"] = [endpoint.endpoint_config_name, Endpoint.get(endpoint_name="sdk3-onnx").endpoint_config_name]

began = time.monotonic()
endpoint.delete()
endpoint.wait_for_delete()
found["deleted_seconds"] = time.monotonic() - began
for name in ("sdk3-onnx", "sdk3-onnx-next"):
    EndpointConfig.get(endpoint_config_name=name).delete()
model.delete()

Model.create(
    model_name="sdk3-missing",
    primary_container=ContainerDefinition(image="onnx", model_data_url="s3://sdk3-onnx/missing/model.tar.gz"),
    execution_role_arn=role,
)
EndpointConfig.create(
    endpoint_config_name="sdk3-missing",
    production_variants=[ProductionVariant(**{**variant.model_dump(), "model_name": "sdk3-missing"})],
)
missing = Endpoint.create(endpoint_name="sdk3-missing", endpoint_config_name="sdk3-missing")
try:
    missing.wait_for_status("InService")
except FailedStatusError as error:
    found["missing"] = str(error)
missing.delete()

try:
    Endpoint.get(endpoint_name="sdk3-absent")
except ClientError as error:
    found["absent"] = error.response["Error"]

report.write_text(json.dumps(found))
