"""A notebook with the SageMaker SDK v3 that has not changed a line for this server: `deploy` waits by itself."""

import json
import sys
import time
from pathlib import Path

import numpy as np
from sagemaker.core.helper.session_helper import Session
from sagemaker.serve import ModelBuilder

archive, rows_file, report = map(Path, sys.argv[1:])

session = Session(default_bucket="sdk3-wait")
builder = ModelBuilder(
    image_uri="onnx",
    s3_model_data_url=session.upload_data(str(archive), key_prefix="classifier"),
    instance_type="ml.m5.large",
    sagemaker_session=session,
)
builder.build(model_name="sdk3-wait")
began = time.monotonic()
endpoint = builder.deploy(endpoint_name="sdk3-wait", initial_instance_count=1)
found = {"seconds": time.monotonic() - began}
as_csv = "\n".join(",".join(map(str, row)) for row in np.load(rows_file).tolist())
found["csv"] = endpoint.invoke(body=as_csv, content_type="text/csv", accept="text/csv").body.read().decode()
endpoint.delete()
endpoint.wait_for_delete()
report.write_text(json.dumps(found))
