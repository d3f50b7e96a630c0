"""Sample models, made on the spot without a download: a model folder each, and what a caller needs to use it."""
