"""What the containers of tree ensembles share: the neutral forest, its ONNX form, its cache, and the choice of engine."""
