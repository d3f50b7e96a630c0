"""The `fraud` sample: a small classifier of card payments, trained on the spot on an invented table.

It is what SageMaker's XGBoost notebooks end with: a `model.tar.gz` that holds one booster called `xgboost-model`. Input
`features` float32[N, 4], in the order of `FEATURES`, which the booster names; output `score` float32[N], the probability
of fraud.
"""

from __future__ import annotations

import gzip
import io
import json
import tarfile
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from serving.errors import MissingExtra
from serving.samples import folder

if TYPE_CHECKING:
    import numpy as np

NAME: Final = "fraud"

ARCHIVE: Final = "model.tar.gz"

BOOSTER: Final = "xgboost-model"

FEATURES: Final = ("amount", "hour", "merchant_risk", "velocity")
"""Amount in the card's currency, hour of day 0 to 23, risk of the merchant 0 to 1, payments in the last hour."""

ROWS: Final = ((950.0, 3.0, 0.9, 12.0), (25.0, 14.0, 0.1, 1.0))
"""A payment that is fraud to the eye, and one that is not."""

ANSWERS: Final = (0.9994, 0.0006)
"""The probability of fraud for each of `ROWS`, to within `TOLERANCE`."""

TOLERANCE: Final = 1e-3

SEED: Final = 20
TRAINING_ROWS: Final = 4000
ROUNDS: Final = 60
PARAMETERS: Final[dict[str, Any]] = {
    "objective": "binary:logistic",
    "max_depth": 3,
    "eta": 0.15,
    "tree_method": "exact",
    "nthread": 1,
    "seed": SEED,
}

RECIPE: Final = json.dumps({"features": FEATURES, "rows": TRAINING_ROWS, "rounds": ROUNDS, **PARAMETERS}, indent=2)
"""Kept beside the archive, to tell it from what another recipe made."""


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
    """Trains the classifier and gives its `model.tar.gz`, the same bytes each time. Raises `MissingExtra`."""
    try:
        import xgboost
    except ImportError as error:
        raise MissingExtra(
            f"the {NAME} sample is trained with XGBoost, and {error.name} is not installed: install serving[samples]"
        ) from error
    rows, labels = table(TRAINING_ROWS, SEED)
    booster = xgboost.train(PARAMETERS, xgboost.DMatrix(rows, labels, feature_names=list(FEATURES)), ROUNDS)
    return _packed(BOOSTER, bytes(booster.save_raw("ubj")))


def _packed(name: str, content: bytes) -> bytes:
    """A gzipped tar of one file, without times or owners."""
    tar = io.BytesIO()
    with tarfile.open(fileobj=tar, mode="w") as writer:
        member = tarfile.TarInfo(name)
        member.size, member.mode = len(content), 0o644
        writer.addfile(member, io.BytesIO(content))
    return gzip.compress(tar.getvalue(), mtime=0)


def make(root: Path) -> bool:
    """Makes `root/fraud` unless it is there already; tells whether it had to. Raises `MissingExtra`."""
    target, recipe = root / NAME, {"recipe.json": RECIPE.encode()}
    if folder.holds(target, recipe) and (target / ARCHIVE).is_file():
        return False
    folder.write(target, {ARCHIVE: train(), **recipe})
    # What the sample was before it came in an archive would be found first.
    for old in ("model.onnx", "model.yaml"):
        (target / old).unlink(missing_ok=True)
    return True


def calls(url: str, python: str) -> str:
    """Shell commands that call the sample at `url`: curl with JSON, curl with CSV, and boto3 run by `python`."""
    answers = " and ".join(str(answer) for answer in ANSWERS)
    rows = ", ".join(f"[{', '.join(f'{value:g}' for value in row)}]" for row in ROWS)
    csv = "\\n".join(",".join(f"{value:g}" for value in row) for row in ROWS)
    return f"""\
# probability of fraud for a suspicious and an ordinary payment, about {answers}
curl -sw '\\n' {url}/endpoints/{NAME}/invocations -H 'Content-Type: application/json' -H 'Accept: application/json' -d '{{"instances": [{rows}]}}'

curl -sw '\\n' {url}/endpoints/{NAME}/invocations -H 'Content-Type: text/csv' --data-binary $'{csv}'

{python} - <<'END'
import boto3
runtime = boto3.client("sagemaker-runtime", endpoint_url="{url}", region_name="us-east-1",
                       aws_access_key_id="any", aws_secret_access_key="any")
body = "{csv}"
answer = runtime.invoke_endpoint(EndpointName="{NAME}", ContentType="text/csv", Body=body)
print(answer["Body"].read().decode())
END
"""
