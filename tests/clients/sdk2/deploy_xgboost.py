"""A notebook with the SageMaker SDK v2: an XGBoost archive in S3 becomes an endpoint that answers CSV, JSON and NPY."""

import json
import sys
import time
from pathlib import Path

import numpy as np
import sagemaker
from sagemaker import image_uris
from sagemaker.deserializers import CSVDeserializer, JSONDeserializer, NumpyDeserializer
from sagemaker.model import Model
from sagemaker.predictor import Predictor
from sagemaker.serializers import CSVSerializer, JSONSerializer, NumpySerializer

archive, rows_file, report = map(Path, sys.argv[1:])
rows = np.load(rows_file)

session = sagemaker.Session(default_bucket="sdk2-xgboost")
model = Model(
    image_uri=image_uris.retrieve("xgboost", session.boto_region_name, "1.7-1"),
    model_data=session.upload_data(str(archive), key_prefix="fraud"),
    role="arn:aws:iam::123456789012:role/serving",
    predictor_cls=Predictor,
    sagemaker_session=session,
)

began = time.monotonic()
predictor = model.deploy(
    initial_instance_count=1,
    instance_type="ml.m5.large",
    endpoint_name="sdk2-fraud",
    serializer=CSVSerializer(),
    deserializer=CSVDeserializer(),
    tags=[{"Key": "team", "Value": "payments"}],
    wait=False,  # The SDK itself sleeps for 30 seconds before it looks for the first time.
)
session.wait_for_endpoint(predictor.endpoint_name, poll=0)  # This server answers when there is something to tell.
seconds = time.monotonic() - began

found = {"seconds": seconds, "csv": predictor.predict(rows)}
predictor.serializer, predictor.deserializer = JSONSerializer(), JSONDeserializer()
found["json"] = predictor.predict({"instances": rows.tolist()})
predictor.serializer, predictor.deserializer = NumpySerializer(), NumpyDeserializer()
found["npy"] = predictor.predict(rows).tolist()

described = session.sagemaker_client.describe_endpoint(EndpointName=predictor.endpoint_name)
found["described"] = described["EndpointStatus"]
found["tags"] = session.list_tags(described["EndpointArn"])

began = time.monotonic()
predictor.update_endpoint(initial_instance_count=2, instance_type="ml.m5.large", model_name=model.name, wait=False)
session.wait_for_endpoint(predictor.endpoint_name, poll=0)
found["updated_seconds"] = time.monotonic() - began
found["updated"] = predictor.predict(rows).tolist()

predictor.delete_model()
predictor.delete_endpoint()
began = time.monotonic()
session.sagemaker_client.get_waiter("endpoint_deleted").wait(EndpointName=predictor.endpoint_name)
found["deleted_seconds"] = time.monotonic() - began

missing = Model(
    image_uri=model.image_uri,
    model_data="s3://sdk2-xgboost/missing/model.tar.gz",
    role=model.role,
    sagemaker_session=session,
)
missing.deploy(1, "ml.m5.large", endpoint_name="sdk2-missing", wait=False)
try:
    session.wait_for_endpoint("sdk2-missing", poll=0)
except sagemaker.exceptions.UnexpectedStatusException as error:
    found["missing"] = str(error)
session.delete_endpoint("sdk2-missing")

report.write_text(json.dumps(found))
