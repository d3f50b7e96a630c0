"""The benchmark: one server core and one load core, the same two models everywhere, ratios within one run."""
