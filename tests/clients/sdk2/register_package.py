"""A notebook with the SageMaker SDK v2: register a model, approve it, deploy the package."""

import json
import sys
from pathlib import Path

import numpy as np
import sagemaker
from sagemaker import image_uris
from sagemaker.deserializers import CSVDeserializer
from sagemaker.model import Model, ModelPackage
from sagemaker.predictor import Predictor
from sagemaker.serializers import CSVSerializer

archive, rows_file, report = map(Path, sys.argv[1:])
rows = np.load(rows_file)
role = "arn:aws:iam::123456789012:role/serving"

session = sagemaker.Session(default_bucket="sdk2-registry")
model = Model(
    image_uri=image_uris.retrieve("xgboost", session.boto_region_name, "1.7-1"),
    model_data=session.upload_data(str(archive), key_prefix="fraud"),
    role=role,
    sagemaker_session=session,
)
details = {
    "content_types": ["text/csv"],
    "response_types": ["text/csv"],
    "inference_instances": ["ml.m5.large"],
    "transform_instances": ["ml.m5.large"],
    "model_package_group_name": "sdk2-fraud",
}
first = model.register(**details, description="the first", customer_metadata_properties={"owner": "payments"})
second = model.register(**details, approval_status="Rejected")
found = {"arns": [first.model_package_arn, second.model_package_arn]}

describe = session.sagemaker_client.describe_model_package
found["pending"] = describe(ModelPackageName=first.model_package_arn)["ModelApprovalStatus"]
first.update_approval_status("Approved", approval_description="checked")
described = describe(ModelPackageName=first.model_package_arn)
found["approved"] = [described["ModelApprovalStatus"], described["ApprovalDescription"]]

package = ModelPackage(
    role=role, model_package_arn=first.model_package_arn, predictor_cls=Predictor, sagemaker_session=session
)
predictor = package.deploy(
    1,
    "ml.m5.large",
    endpoint_name="sdk2-package",
    serializer=CSVSerializer(),
    deserializer=CSVDeserializer(),
    wait=False,
)
session.wait_for_endpoint(predictor.endpoint_name, poll=0)
found["csv"] = predictor.predict(rows)
predictor.delete_model()
predictor.delete_endpoint()

report.write_text(json.dumps(found))
