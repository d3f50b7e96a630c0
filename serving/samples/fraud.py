"""The `fraud` sample: a small classifier of card payments, trained on the spot on an invented table.

Input `features` float32[N, 4], in the order of `FEATURES`; output `probabilities` float32[N, 2]: legitimate, fraud.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from serving.errors import MissingExtra
from serving.samples import folder

if TYPE_CHECKING:
    import numpy as np

NAME: Final = "fraud"

FEATURES: Final = ("amount", "hour", "merchant_risk", "velocity")
"""Amount in the card's currency, hour of day 0 to 23, risk of the merchant 0 to 1, payments in the last hour."""

CONFIG: Final = f"""\
name: {NAME}
container: onnx
version: "1"
inputs:
  - name: features
    features: [{", ".join(FEATURES)}]
"""

ROWS: Final = ((950.0, 3.0, 0.9, 12.0), (25.0, 14.0, 0.1, 1.0))
"""A payment that is fraud to the eye, and one that is not."""

ANSWERS: Final = ((0.0013, 0.9987), (0.9951, 0.0049))
"""The probabilities of `ROWS`, to within `TOLERANCE`."""

TOLERANCE: Final = 1e-3

SEED: Final = 20
TRAINING_ROWS: Final = 4000


def table(rows: int, seed: int) -> tuple[np.ndarray[Any, np.dtype[np.float32]], np.ndarray[Any, np.dtype[np.int64]]]:
    """An invented table of payments: float32[rows, 4] features and int64[rows] labels, 1 for fraud.

    Fraud is likelier for large amounts, at night, with risky merchants and in bursts; a logistic draw is the noise.
    """
    import numpy as np

    random = np.random.default_rng(seed)
    amount = random.lognormal(4.0, 1.2, rows)
    hour = random.integers(0, 24, rows)
    risk = random.beta(1.5, 4.0, rows)
    velocity = random.poisson(2.0, rows) + random.binomial(1, 0.1, rows) * random.poisson(8.0, rows)
    night = (hour < 6) | (hour > 22)
    odds = 1.1 * (np.log(amount) - 4.0) + 1.4 * night + 5.0 * (risk - 0.3) + 0.45 * (velocity - 2.0) - 3.5
    labels = random.logistic(0.0, 0.5, rows) < odds
    return np.column_stack([amount, hour, risk, velocity]).astype(np.float32), labels.astype(np.int64)


def train() -> bytes:
    """Trains the classifier and gives it as an ONNX file. Raises `MissingExtra`.

    Boosted trees, because their answers are the same whatever the batch that a row comes in.
    """
    try:
        from onnx import TensorProto
        from skl2onnx import to_onnx
        from skl2onnx.common.data_types import FloatTensorType
        from skl2onnx.helpers.onnx_helper import select_model_inputs_outputs
        from sklearn.ensemble import GradientBoostingClassifier
    except ImportError as error:
        raise MissingExtra(
            f"the {NAME} sample is trained with scikit-learn and skl2onnx, and {error.name} is not installed: "
            "install serving[samples]"
        ) from error
    classifier = GradientBoostingClassifier(n_estimators=60, max_depth=3, random_state=SEED)
    classifier.fit(*table(TRAINING_ROWS, SEED))
    whole = to_onnx(
        classifier,
        initial_types=[("features", FloatTensorType([None, len(FEATURES)]))],
        options={"zipmap": False},
        target_opset={"": 17, "ai.onnx.ml": 3},
    )
    model = select_model_inputs_outputs(whole, ["probabilities"])
    for value, width in ((model.graph.input[0], len(FEATURES)), (model.graph.output[0], 2)):
        tensor = value.type.tensor_type
        tensor.elem_type = TensorProto.FLOAT
        del tensor.shape.dim[:]
        tensor.shape.dim.add(dim_param="N")
        tensor.shape.dim.add(dim_value=width)
    return bytes(model.SerializeToString())


def make(root: Path) -> bool:
    """Makes `root/fraud` unless it is there already; tells whether it had to. Raises `MissingExtra`."""
    target = root / NAME
    config = CONFIG.encode()
    if folder.holds(target, {"model.yaml": config}) and (target / "model.onnx").is_file():
        return False
    folder.write(target, {"model.onnx": train(), "model.yaml": config})
    return True


def calls(url: str, python: str) -> str:
    """Shell commands that call the sample at `url`: curl with JSON, curl with CSV, and boto3 run by `python`."""
    answers = ", ".join(str(list(row)) for row in ANSWERS)
    rows = ", ".join(f"[{', '.join(f'{value:g}' for value in row)}]" for row in ROWS)
    csv = "\\n".join(",".join(f"{value:g}" for value in row) for row in ROWS)
    return f"""\
# probabilities of a suspicious and of an ordinary payment, about [{answers}]
curl -sw '\\n' {url}/endpoints/{NAME}/invocations -H 'Content-Type: application/json' -d '{{"instances": [{rows}]}}'

curl -sw '\\n' {url}/endpoints/{NAME}/invocations -H 'Content-Type: text/csv' -H 'Accept: text/csv' --data-binary $'{csv}'

{python} - <<'END'
import boto3
runtime = boto3.client("sagemaker-runtime", endpoint_url="{url}", region_name="us-east-1",
                       aws_access_key_id="any", aws_secret_access_key="any")
body = '{{"instances": [{rows}]}}'
answer = runtime.invoke_endpoint(EndpointName="{NAME}", ContentType="application/json", Body=body)
print(answer["Body"].read().decode())
END
"""
