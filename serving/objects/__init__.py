"""Artifacts on disk: model archives and repositories, read as hostile until proved otherwise."""
