"""Tests of the built-in containers."""
