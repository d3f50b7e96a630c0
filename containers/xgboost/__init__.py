"""The XGBoost container: boosters as XGBoost and SageMaker's containers write them, answered as SageMaker's answer."""
