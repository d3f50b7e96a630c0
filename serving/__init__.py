"""A self-hosted inference server that speaks SageMaker's inference contracts and the Open Inference Protocol."""

__version__ = "0.1.0"
