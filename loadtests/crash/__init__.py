"""The crash run (`make crash`): supervisor and workers are killed at random moments during control traffic."""
