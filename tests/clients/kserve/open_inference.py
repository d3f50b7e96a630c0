"""A program with the KServe SDK's own clients: health, readiness, numbers and text over REST and over gRPC."""

import asyncio
import json
import sys
from pathlib import Path

import grpc
import httpx
import numpy as np
from kserve import InferenceGRPCClient, InferenceRESTClient, InferInput, InferRequest, RESTConfig

url, address, asked, report = sys.argv[1], sys.argv[2], Path(sys.argv[3]), Path(sys.argv[4])
values = {
    "numbers": np.load(asked),
    "texts": np.array(["left", "", "größer"], object),
}
datatypes = {"numbers": "FP32", "texts": "BYTES"}


def request(model, binary):
    tensor = InferInput("x", list(values[model].shape), datatypes[model])
    tensor.set_data_from_numpy(values[model], binary_data=binary)
    return InferRequest(model_name=model, infer_inputs=[tensor], request_id=f"{model}-{binary}")


def shown(response):
    (output,) = response.outputs
    elements = output.as_numpy().ravel().tolist()
    return {
        "model": response.model_name,
        "id": response.id,
        "output": [output.name, output.datatype, list(output.shape)],
        "values": [value.decode() if isinstance(value, bytes) else value for value in elements],
    }


async def over_rest():
    async with InferenceRESTClient(RESTConfig(protocol="v2")) as client:
        found = {
            "live": await client.is_server_live(url),
            "ready": await client.is_server_ready(url),
            "model": await client.is_model_ready(url, "numbers"),
            "absent": await client.is_model_ready(url, "absent"),
        }
        for model in values:
            for form, binary in (("plain", False), ("binary", True)):
                found[f"{model} {form}"] = shown(await client.infer(url, request(model, binary), model_name=model))
        try:
            await client.infer(url, request("numbers", False), model_name="absent")
        except httpx.HTTPStatusError as error:
            found["refused"] = [error.response.status_code, str(error)]
    return found


async def over_grpc():
    async with InferenceGRPCClient(address, retries=0) as client:
        found = {
            "live": await client.is_server_live(),
            "ready": await client.is_server_ready(),
            "model": await client.is_model_ready("numbers"),
        }
        for model in values:
            for form, binary in (("plain", False), ("binary", True)):
                found[f"{model} {form}"] = shown(await client.infer(request(model, binary)))
        try:
            wrong = request("numbers", True)
            wrong.model_name = "absent"
            await client.infer(wrong)
        except grpc.RpcError as error:
            found["refused"] = [error.code().name, error.details()]
    return found


async def main():
    return {"rest": await over_rest(), "grpc": await over_grpc()}


report.write_text(json.dumps(asyncio.run(main())))
