"""The ONNX container: any ONNX graph, run by ONNX Runtime."""
