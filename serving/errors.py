"""The one tree of errors. Each knows its status on every face; its docstring is its default message.

Statuses: `http_status` is what the container contract (`/invocations`) and, unless `v2_status` differs, the
Open Inference Protocol answer. `sagemaker_code` is the error class of the SageMaker runtime face; None means that the
fault is the container's own, which SageMaker reports as 424 `ModelError` with the container's status inside.
gRPC codes are the numbers of the gRPC status list.
Sources: SageMaker Runtime API reference (InvokeEndpoint errors), Open Inference Protocol REST, Triton's HTTP server.
"""

from __future__ import annotations

from typing import ClassVar

INVALID_ARGUMENT = 3
DEADLINE_EXCEEDED = 4
NOT_FOUND = 5
ALREADY_EXISTS = 6
PERMISSION_DENIED = 7
RESOURCE_EXHAUSTED = 8
UNIMPLEMENTED = 12
INTERNAL = 13
UNAVAILABLE = 14


def encodable(text: str) -> str:
    """The text with what is no character (bytes of a file's name that are not UTF-8) as escapes: all encodings take it."""
    return text.encode("utf-8", "backslashreplace").decode()


class ServingError(Exception):
    """The request failed."""

    http_status: ClassVar[int] = 500
    v2_status: ClassVar[int | None] = None
    grpc_code: ClassVar[int] = INTERNAL
    sagemaker_code: ClassVar[str | None] = "InternalFailure"
    sagemaker_status: ClassVar[int] = 500

    def __init__(self, message: str = "", *, retry_after_s: float | None = None) -> None:
        self.message = encodable(message or (type(self).__doc__ or "").strip())
        self.retry_after_s = retry_after_s
        super().__init__(self.message)


# ---------------------------------------------------------------- faults of the caller, found by the container


class ContainerFault(ServingError):
    """The container refused the request."""

    http_status = 400
    grpc_code = INVALID_ARGUMENT
    sagemaker_code = None
    sagemaker_status = 424


class NoContent(ServingError):
    """The body is empty, and so is the answer."""

    # No fault: what SageMaker's XGBoost container answers to nothing.
    http_status = 204
    sagemaker_code = None
    sagemaker_status = 204


class MalformedBody(ContainerFault):
    """The body is not what its Content-Type says."""


class InvalidInput(ContainerFault):
    """An input does not fit the model: its name, datatype, shape or values."""


class UnsupportedMediaType(ContainerFault):
    """The Content-Type is not one that this model reads."""

    http_status = 415


class NotAcceptable(ContainerFault):
    """None of the media types in Accept can be written."""

    http_status = 406


class ModelFailure(ContainerFault):
    """The model failed while it ran."""

    http_status = 500
    grpc_code = INTERNAL


class DeadlineExceeded(ContainerFault):
    """The deadline passed before the answer was ready."""

    http_status = 504
    grpc_code = DEADLINE_EXCEEDED


class LoadFailed(ContainerFault):
    """The model could not be loaded."""

    http_status = 500
    grpc_code = INTERNAL


class InsufficientMemory(ContainerFault):
    """The model does not fit into the memory that models may take."""

    http_status = 507
    grpc_code = RESOURCE_EXHAUSTED


# ---------------------------------------------------------------- faults of the request, found by the platform


class BadRequest(ServingError):
    """The request is not valid."""

    http_status = 400
    grpc_code = INVALID_ARGUMENT
    sagemaker_code = "ValidationError"
    sagemaker_status = 400


class Forbidden(ServingError):
    """The request is not allowed from there."""

    http_status = 403
    grpc_code = PERMISSION_DENIED
    sagemaker_code = "AccessDeniedException"
    sagemaker_status = 403


class UnknownName(ServingError):
    """Nothing is served under that name."""

    http_status = 404
    grpc_code = NOT_FOUND
    sagemaker_code = "ValidationError"
    sagemaker_status = 400


class TargetMissing(UnknownName):
    """The multi-model endpoint has no such model."""


class ModelExists(ServingError):
    """The model is loaded already."""

    http_status = 409
    grpc_code = ALREADY_EXISTS
    sagemaker_code = "ValidationError"
    sagemaker_status = 400


class NotFound(ServingError):
    """There is no such path."""

    http_status = 404
    grpc_code = NOT_FOUND
    sagemaker_code = "UnknownOperationException"
    sagemaker_status = 404


class MethodNotAllowed(ServingError):
    """The path does not answer that method."""

    http_status = 405
    grpc_code = UNIMPLEMENTED
    sagemaker_code = "UnknownOperationException"
    sagemaker_status = 405


class Unsupported(ServingError):
    """This part of the protocol is not built."""

    http_status = 501
    grpc_code = UNIMPLEMENTED
    sagemaker_code = "UnknownOperationException"
    sagemaker_status = 404


class RequestTimeout(ServingError):
    """The request was not received whole in time."""

    http_status = 408
    grpc_code = DEADLINE_EXCEEDED
    sagemaker_code = "RequestTimeout"
    sagemaker_status = 408


class LengthRequired(ServingError):
    """The request needs a Content-Length or a chunked body."""

    http_status = 411
    grpc_code = INVALID_ARGUMENT
    sagemaker_code = "ValidationError"
    sagemaker_status = 411


class TooLarge(ServingError):
    """The body is larger than the limit."""

    # botocore takes the status as the code where a body names none, which is what SageMaker's own callers see.
    http_status = 413
    grpc_code = RESOURCE_EXHAUSTED
    sagemaker_code = "413"
    sagemaker_status = 413


class HeadersTooLarge(ServingError):
    """The request line and headers are larger than the limit."""

    http_status = 431
    grpc_code = RESOURCE_EXHAUSTED
    sagemaker_code = "ValidationError"
    sagemaker_status = 431


# ---------------------------------------------------------------- states of the server


class Overloaded(ServingError):
    """The queue is longer than the model can serve in time."""

    http_status = 429
    v2_status = 503
    grpc_code = UNAVAILABLE
    sagemaker_code = "ThrottlingException"
    sagemaker_status = 429


class NotReady(ServingError):
    """The model is not ready."""

    http_status = 503
    grpc_code = UNAVAILABLE
    sagemaker_code = "ModelNotReadyException"
    sagemaker_status = 429


class Unloaded(NotReady):
    """The model was unloaded."""


class ModelLoading(NotReady):
    """The model is being loaded; try again."""

    http_status = 429
    v2_status = 503


class Unavailable(ServingError):
    """The server cannot take the request now."""

    http_status = 503
    grpc_code = UNAVAILABLE
    sagemaker_code = "ServiceUnavailable"
    sagemaker_status = 503


class InternalError(ServingError):
    """The server failed; its log has the cause."""


# ---------------------------------------------------------------- faults of a call of the control API


class ControlFault(ServingError):
    """The call cannot be carried out."""

    # JSON 1.1: every fault of the caller is a 400, whatever REST would say.
    http_status = 400
    grpc_code = INVALID_ARGUMENT
    sagemaker_code = "ValidationException"
    sagemaker_status = 400


class ResourceNotFound(ControlFault):
    """There is no such resource."""

    sagemaker_code = "ResourceNotFound"


class ResourceInUse(ControlFault):
    """The resource is in use."""

    sagemaker_code = "ResourceInUse"


class Conflict(ControlFault):
    """The resource was changed meanwhile, or is not in a state for this."""

    sagemaker_code = "ConflictException"


class ResourceLimitExceeded(ControlFault):
    """There are as many of these as there may be."""

    sagemaker_code = "ResourceLimitExceeded"


class NotSerialized(ControlFault):
    """The body is not what the protocol writes."""

    sagemaker_code = "SerializationException"


class UnknownOperation(ControlFault):
    """There is no such operation on this server."""

    http_status = 404
    grpc_code = UNIMPLEMENTED
    sagemaker_code = "UnknownOperationException"
    sagemaker_status = 404


class InvalidSignature(ControlFault):
    """The request was signed for something else."""

    http_status = 403
    grpc_code = PERMISSION_DENIED
    sagemaker_code = "InvalidSignatureException"
    sagemaker_status = 403


class LogNotFound(ControlFault):
    """The specified log group does not exist."""

    sagemaker_code = "ResourceNotFoundException"


class InvalidLogParameter(ControlFault):
    """A parameter of a call of the logs API is not valid."""

    sagemaker_code = "InvalidParameterException"


class StoreUnavailable(ControlFault):
    """The control plane's database cannot be reached; what is served goes on."""

    http_status = 503
    grpc_code = UNAVAILABLE
    sagemaker_code = "ServiceUnavailable"
    sagemaker_status = 503


# ---------------------------------------------------------------- faults of the operator


class ConfigurationError(ServingError):
    """A setting cannot be honoured."""


class ArtifactError(ServingError):
    """The model artifact cannot be served."""


class ObjectMissing(ArtifactError):
    """There is no such object in the object store."""


class ObjectDenied(ArtifactError):
    """The object store does not let this server read the object, or tell whether there is one."""


class ObjectChanged(ArtifactError):
    """The object was replaced while it was read."""


class ObjectStoreUnavailable(ArtifactError):
    """The object store cannot be reached; another try may succeed."""


class MissingExtra(ConfigurationError):
    """A library that this model needs is not installed."""
