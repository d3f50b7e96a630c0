"""Media type to tensors and back: one module a format, each a strict decoder and encoder with a fast path."""
