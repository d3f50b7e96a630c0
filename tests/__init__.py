"""Tests: they mirror the tree of serving and containers; tests/acceptance talks to a real running server."""
