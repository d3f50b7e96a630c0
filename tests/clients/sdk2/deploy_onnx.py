"""A notebook with the SageMaker SDK v2: an ONNX graph, by the server's own image name and as Triton's container has it."""

import json
import sys
from pathlib import Path

import numpy as np
import sagemaker
from sagemaker import image_uris
from sagemaker.deserializers import CSVDeserializer, JSONDeserializer, NumpyDeserializer
from sagemaker.model import Model
from sagemaker.predictor import Predictor
from sagemaker.serializers import CSVSerializer, JSONSerializer, NumpySerializer

archive, triton_archive, rows_file, report = map(Path, sys.argv[1:])
rows = np.load(rows_file)
role = "arn:aws:iam::123456789012:role/serving"

session = sagemaker.Session(default_bucket="sdk2-onnx")

model = Model(
    image_uri="onnx",
    model_data=session.upload_data(str(archive), key_prefix="classifier"),
    role=role,
    predictor_cls=Predictor,
    sagemaker_session=session,
)
predictor = model.deploy(1, "ml.m5.large", endpoint_name="sdk2-onnx", wait=False)
session.wait_for_endpoint(predictor.endpoint_name, poll=0)
found = {}
predictor.serializer, predictor.deserializer = CSVSerializer(), CSVDeserializer()
found["csv"] = predictor.predict(rows)
predictor.serializer, predictor.deserializer = JSONSerializer(), JSONDeserializer()
found["json"] = predictor.predict({"instances": rows.tolist()})
predictor.serializer, predictor.deserializer = NumpySerializer(), NumpyDeserializer()
found["npy"] = predictor.predict(rows).tolist()
predictor.delete_model()
predictor.delete_endpoint()

triton = Model(
    image_uri=image_uris.retrieve(
        "sagemaker-tritonserver", session.boto_region_name, "24.09", instance_type="ml.g4dn.xlarge"
    ),
    model_data=session.upload_data(str(triton_archive), key_prefix="triton"),
    env={"SAGEMAKER_TRITON_DEFAULT_MODEL_NAME": "classifier"},
    role=role,
    predictor_cls=Predictor,
    sagemaker_session=session,
)
predictor = triton.deploy(1, "ml.g4dn.xlarge", endpoint_name="sdk2-triton", wait=False)
session.wait_for_endpoint(predictor.endpoint_name, poll=0)
predictor.serializer, predictor.deserializer = JSONSerializer(), JSONDeserializer()
tensor = {"name": "features", "shape": list(rows.shape), "datatype": "FP32", "data": rows.ravel().tolist()}
found["triton"] = predictor.predict({"inputs": [tensor]})["outputs"]
predictor.delete_model()
predictor.delete_endpoint()

report.write_text(json.dumps(found))
