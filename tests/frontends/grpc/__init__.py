"""The gRPC service and what carries it."""
