"""Tests of artifacts on disk."""
