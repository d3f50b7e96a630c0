"""ONNX's own node cases: the same graphs asked directly and through a real server, with the same right answers."""
