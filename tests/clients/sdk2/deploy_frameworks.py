"""A notebook with the SageMaker SDK v2: its framework models, without scripts and with one."""

import json
import sys
from pathlib import Path

import numpy as np
import sagemaker
from sagemaker.deserializers import JSONDeserializer
from sagemaker.serializers import CSVSerializer, JSONSerializer
from sagemaker.session_settings import SessionSettings
from sagemaker.sklearn import SKLearnModel
from sagemaker.xgboost import XGBoostModel, XGBoostPredictor

xgboost_archive, sklearn_archive, rows_file, report = map(Path, sys.argv[1:])
rows = np.load(rows_file)
role = "arn:aws:iam::123456789012:role/serving"

# Otherwise the SDK asks S3 for a key of AWS's own to encrypt scripts with, which no other S3 has.
settings = SessionSettings(encrypt_repacked_artifacts=False)
session = sagemaker.Session(default_bucket="sdk2-frameworks", settings=settings)

model = XGBoostModel(
    model_data=session.upload_data(str(xgboost_archive), key_prefix="xgboost"),
    role=role,
    entry_point=None,
    framework_version="1.7-1",
    sagemaker_session=session,
)
predictor = model.deploy(1, "ml.m5.large", serializer=CSVSerializer(), wait=False)
session.wait_for_endpoint(predictor.endpoint_name, poll=0)
found = {"xgboost": predictor.predict(rows)}
as_libsvm = "\n".join(" ".join(f"{index}:{value}" for index, value in enumerate(row)) for row in rows.tolist())
found["libsvm"] = XGBoostPredictor(predictor.endpoint_name, session).predict(as_libsvm)
predictor.delete_model()
predictor.delete_endpoint()

model = SKLearnModel(
    model_data=session.upload_data(str(sklearn_archive), key_prefix="sklearn"),
    role=role,
    entry_point=None,
    framework_version="1.2-1",
    sagemaker_session=session,
)
predictor = model.deploy(1, "ml.m5.large", wait=False)
session.wait_for_endpoint(predictor.endpoint_name, poll=0)
found["sklearn"] = predictor.predict(rows).tolist()
predictor.serializer, predictor.deserializer = JSONSerializer(), JSONDeserializer()
found["sklearn_json"] = predictor.predict(rows.tolist())
predictor.delete_model()
predictor.delete_endpoint()

Path("inference.py").write_text("def predict_fn(data, model):\n    return model.predict(data)\n")
model = SKLearnModel(
    model_data=model.model_data,
    role=role,
    entry_point="inference.py",
    framework_version="1.2-1",
    sagemaker_session=session,
)
predictor = model.deploy(1, "ml.m5.large", wait=False)
try:
    session.wait_for_endpoint(predictor.endpoint_name, poll=0)
except sagemaker.exceptions.UnexpectedStatusException as error:
    found["script"] = str(error)
predictor.delete_model()
predictor.delete_endpoint()

report.write_text(json.dumps(found))
