"""A notebook with the SageMaker SDK v2: fifty models behind one endpoint, more of them added while it serves."""

import json
import sys
import tarfile
import time
from pathlib import Path

import numpy as np
import sagemaker
from sagemaker.deserializers import JSONDeserializer
from sagemaker.multidatamodel import MultiDataModel
from sagemaker.predictor import Predictor
from sagemaker.serializers import JSONSerializer

packed, rows_file, report = map(Path, sys.argv[1:])
rows = np.load(rows_file)
with tarfile.open(packed) as tar:
    tar.extractall("models")

session = sagemaker.Session(default_bucket="sdk2-many")
many = MultiDataModel(
    name="sdk2-many",
    model_data_prefix=f"s3://{session.default_bucket()}/models/",
    image_uri="onnx",
    role="arn:aws:iam::123456789012:role/serving",
    predictor_cls=Predictor,
    sagemaker_session=session,
)
for file in sorted(Path("models").iterdir()):
    many.add_model(str(file), f"team/{file.name}")

began = time.monotonic()
predictor = many.deploy(
    initial_instance_count=1,
    instance_type="ml.m5.large",
    serializer=JSONSerializer(),
    deserializer=JSONDeserializer(),
    wait=False,
)
session.wait_for_endpoint(predictor.endpoint_name, poll=0)
found = {"seconds": time.monotonic() - began, "listed": sorted(many.list_models())}
found["answers"] = {name: predictor.predict(rows.tolist(), target_model=name) for name in found["listed"]}

many.add_model(f"s3://{session.default_bucket()}/models/team/m7.tar.gz", "copies/seven.tar.gz")
found["added"] = predictor.predict(rows.tolist(), target_model="copies/seven.tar.gz")
found["more"] = "copies/seven.tar.gz" in set(many.list_models())
try:
    predictor.predict(rows.tolist(), target_model="none.tar.gz")
except session.sagemaker_runtime_client.exceptions.ClientError as error:
    found["missing"] = str(error)

predictor.delete_endpoint()
session.sagemaker_client.get_waiter("endpoint_deleted").wait(EndpointName=predictor.endpoint_name)
report.write_text(json.dumps(found))
