"""A notebook with the SageMaker SDK v3: ModelBuilder deploys an XGBoost archive, registers it, and the package serves."""

import io
import json
import sys
import time
from pathlib import Path

import numpy as np
from botocore.exceptions import ClientError
from sagemaker.core import image_uris
from sagemaker.core.helper.session_helper import Session
from sagemaker.core.resources import Endpoint, EndpointConfig, Model, ModelPackage
from sagemaker.core.shapes import ContainerDefinition, ProductionVariant
from sagemaker.serve import ModelBuilder

archive, rows_file, report = map(Path, sys.argv[1:])
rows = np.load(rows_file)
role = "arn:aws:iam::123456789012:role/serving"

session = Session(default_bucket="sdk3-fraud")
builder = ModelBuilder(
    image_uri=image_uris.retrieve("xgboost", session.boto_region_name, "1.7-1"),
    s3_model_data_url=session.upload_data(str(archive), key_prefix="fraud"),
    role_arn=role,
    instance_type="ml.m5.large",
    sagemaker_session=session,
)

began = time.monotonic()
builder.build(model_name="sdk3-fraud")
endpoint = builder.deploy(
    endpoint_name="sdk3-fraud",
    initial_instance_count=1,
    wait=False,  # The SDK itself sleeps for 30 seconds before it looks for the first time.
)
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
endpoint.delete()
endpoint.wait_for_delete()

arn = builder.register(
    model_package_group_name="sdk3-fraud",
    content_types=["text/csv"],
    response_types=["text/csv"],
    inference_instances=["ml.m5.large"],
    approval_status="PendingManualApproval",
)
package = ModelPackage.get(model_package_name=arn)
found["registered"] = [arn, package.model_package_version, package.model_approval_status]

container = ContainerDefinition(model_package_name=arn)
try:
    Model.create(model_name="sdk3-package", containers=[container], execution_role_arn=role)
except ClientError as error:
    found["pending"] = error.response["Error"]

package.update(model_approval_status="Approved")
found["approved"] = ModelPackage.get(model_package_name=arn).model_approval_status
found["versions"] = [one.model_package_arn for one in ModelPackage.get_all(model_package_group_name="sdk3-fraud")]

Model.create(model_name="sdk3-package", containers=[container], execution_role_arn=role)
variant = ProductionVariant(
    variant_name="AllTraffic", model_name="sdk3-package", instance_type="ml.m5.large", initial_instance_count=1
)
EndpointConfig.create(endpoint_config_name="sdk3-package", production_variants=[variant])
endpoint = Endpoint.create(endpoint_name="sdk3-package", endpoint_config_name="sdk3-package")
endpoint.wait_for_status("InService")
answer = endpoint.invoke(body=as_csv, content_type="text/csv", accept="text/csv")
found["package_csv"] = answer.body.read().decode()
endpoint.delete()
endpoint.wait_for_delete()
# A version has no name: its ARN stands for it.
ModelPackage(model_package_name=arn).delete()

report.write_text(json.dumps(found))
