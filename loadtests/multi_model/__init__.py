"""Many models on one endpoint: traces of their requests, and eviction policies compared on them."""
