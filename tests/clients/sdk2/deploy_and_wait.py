"""A notebook with the SageMaker SDK v2 that has not changed a line for this server: `deploy` waits by itself."""

import json
import sys
import time
from pathlib import Path

import numpy as np
import sagemaker
from sagemaker import image_uris
from sagemaker.deserializers import CSVDeserializer
from sagemaker.model import Model
from sagemaker.predictor import Predictor
from sagemaker.serializers import CSVSerializer

archive, rows_file, report = map(Path, sys.argv[1:])

session = sagemaker.Session(default_bucket="sdk2-wait")
model = Model(
    image_uri=image_uris.retrieve("xgboost", session.boto_region_name, "1.7-1"),
    model_data=session.upload_data(str(archive), key_prefix="fraud"),
    role="arn:aws:iam::123456789012:role/serving",
    predictor_cls=Predictor,
    sagemaker_session=session,
)
began = time.monotonic()
predictor = model.deploy(1, "ml.m5.large", serializer=CSVSerializer(), deserializer=CSVDeserializer())
found = {"seconds": time.monotonic() - began, "csv": predictor.predict(np.load(rows_file))}
predictor.delete_model()
predictor.delete_endpoint()
report.write_text(json.dumps(found))
