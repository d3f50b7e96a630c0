"""The control plane's benchmark (`make bench-control`): how fast endpoints come, answers are had, and at whose cost."""
