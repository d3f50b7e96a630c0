"""The Open Inference Protocol over gRPC, with Triton's extensions: one servicer, and the transports that carry it."""
