"""The control plane: SageMaker's API over resources in SQL, and the loop that makes what runs equal to what was asked."""
