"""One request's way: routing snapshot, endpoint, model, batcher."""
