"""Long runs of mixed traffic with bad clients and killed workers (`make soak`): what grows is a leak."""
