"""A container definition's Environment: the variables that SageMaker's containers read, honoured or refused by name.

All of it reaches the container in `ModelConfig.environment`; an empty value is as good as none, as the SDK sends it.
Sources: SageMaker inference toolkit (`parameters.py`, `environment.py`), SageMaker XGBoost container, its Triton container.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

import msgspec

from serving.contract import ModelConfig
from serving.errors import BadRequest, ConfigurationError
from serving.objects.target_url import target_url

WORKERS: Final = "SAGEMAKER_MODEL_SERVER_WORKERS"
TIMEOUT_SECONDS: Final = "SAGEMAKER_MODEL_SERVER_TIMEOUT_SECONDS"
TIMEOUT: Final = "SAGEMAKER_MODEL_SERVER_TIMEOUT"
ACCEPT: Final = "SAGEMAKER_DEFAULT_INVOCATIONS_ACCEPT"
MULTI_MODEL: Final = "SAGEMAKER_MULTI_MODEL"
PINNED: Final = "SERVING_PINNED_MODELS"
PREWARMED: Final = "SERVING_PREWARMED_MODELS"
PROGRAM: Final = "SAGEMAKER_PROGRAM"
SUBMIT_DIRECTORY: Final = "SAGEMAKER_SUBMIT_DIRECTORY"
TRITON_MODEL: Final = "SAGEMAKER_TRITON_DEFAULT_MODEL_NAME"

ONLY: Final[Mapping[str, str]] = {
    "SAGEMAKER_INFERENCE_OUTPUT": "xgboost",
    "SAGEMAKER_INFERENCE_ENSEMBLE": "xgboost",
}
"""Variables that change answers, and the one kind that honours them."""

CODE_DIRECTORY: Final = "/opt/ml/model/code"
"""Where a script lies in a container whose archive was repacked with it."""

USUAL_PROGRAM: Final = "inference.py"

JSON: Final = "application/json"

MOST_WORKERS: Final = 1024
MOST_TIMEOUT_S: Final = 86_400
MOST_SLOTS: Final = 64
"""Instances of one machine share its cores: they add slots up to this many; workers are what they are said to be."""

FALSE: Final = ("", "false", "0", "no")


class Script(msgspec.Struct, frozen=True):
    """An inference script that the environment names: `path` in the model's folder, or "" where it is not in there."""

    program: str
    path: str


def given(environment: Mapping[str, str]) -> dict[str, str]:
    """The variables that say something."""
    return {name: value for name, value in environment.items() if value}


def refuse_unbuilt(environment: Mapping[str, str]) -> None:
    """Raises `ConfigurationError` for what can be told from the variables alone not to be served."""
    found = script(environment)
    if found is not None and not found.path:
        raise ConfigurationError(
            f"{PROGRAM} is '{found.program}' and {SUBMIT_DIRECTORY} is '{environment[SUBMIT_DIRECTORY]}': inference scripts "
            "are not built yet; deploy the model without entry_point"
        )


def refuse_mode(environment: Mapping[str, str], *, many: bool) -> None:
    """Raises `ConfigurationError` where the variables and the container's Mode do not agree on whether it has many models."""
    if MULTI_MODEL in environment and (environment[MULTI_MODEL].lower() not in FALSE) != many:
        raise ConfigurationError(
            f"{MULTI_MODEL} is '{environment[MULTI_MODEL]}', and the container's Mode is {'' if many else 'not '}MultiModel, "
            "which says it here"
        )
    for name in (PINNED, PREWARMED):
        if name in environment and not many:
            raise ConfigurationError(f"{name} is set, and the container's Mode is not MultiModel")


def targets(environment: Mapping[str, str], variable: str, prefix: str) -> tuple[str, ...]:
    """The targets that a variable lists, separated by commas. Raises `ConfigurationError` where one cannot be."""
    names = [name for part in environment.get(variable, "").split(",") if (name := part.strip().removeprefix("/"))]
    for name in names:
        try:
            target_url(prefix, name)
        except BadRequest as error:
            raise ConfigurationError(f"{variable}: {error.message}") from error
    return tuple(dict.fromkeys(names))


def common(name: str, environment: Mapping[str, str], kind: str, instances: int) -> ModelConfig:
    """What all models of a multi-model endpoint have in common: their variables, and a slot for each instance.

    `configured` makes each model's own settings of it. Raises `ConfigurationError` for what no model of the kind ("": any)
    could be served with.
    """
    if kind:
        configured(ModelConfig(), environment, kind, instances)
    return ModelConfig(name=name, slots=min(instances, MOST_SLOTS), environment=dict(environment))


def script(environment: Mapping[str, str]) -> Script | None:
    """The script that a container would run, or None.

    The SDK names `code/inference.py` also for models that have none, which the containers then serve by themselves; so
    whether there is one is seen when the model is there. A tar in S3 holds one for certain.
    """
    program = environment.get(PROGRAM, "")
    if not program:
        return None
    directory = environment.get(SUBMIT_DIRECTORY) or CODE_DIRECTORY
    if directory.rstrip("/") != CODE_DIRECTORY:
        return Script(program, "")
    return Script(program, f"code/{program}")


def configured(config: ModelConfig, environment: Mapping[str, str], kind: str, instances: int) -> ModelConfig:
    """A model's settings with what its variables say over them. Raises `ConfigurationError` naming the variable."""
    variables = environment if all(environment.values()) else given(environment)
    for name, only in ONLY.items():
        if name in variables and kind != only:
            raise ConfigurationError(
                f"{name} is '{variables[name]}': only the {only} container has it, this one is {kind}"
            )
    accept = variables.get(ACCEPT, JSON)
    if kind != "xgboost" and accept != JSON:
        raise ConfigurationError(
            f"{ACCEPT} is '{accept}': the {kind} container answers {JSON} where Accept leaves the choice; leave it out"
        )
    slots = _number(variables, WORKERS, MOST_WORKERS) if WORKERS in variables else config.slots
    batching = config.batching
    for name in (TIMEOUT_SECONDS, TIMEOUT):
        if name in variables:
            timeout_s = float(_number(variables, name, MOST_TIMEOUT_S))
            batching = msgspec.structs.replace(batching, default_timeout_s=timeout_s)
            break
    return msgspec.structs.replace(
        config,
        slots=max(slots, min(slots * instances, MOST_SLOTS)),
        batching=batching,
        # Most models have none of their own, and thousands of one endpoint share those that are given.
        environment={**config.environment, **variables} if config.environment else variables,
    )


def _number(variables: Mapping[str, str], name: str, most: int) -> int:
    text = variables[name].strip()
    value = int(text) if text.isascii() and text.isdigit() and len(text) <= len(str(most)) else 0
    if not 1 <= value <= most:
        raise ConfigurationError(f"{name} is '{variables[name]}'; a whole number from 1 to {most} was expected")
    return value
