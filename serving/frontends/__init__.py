"""Thin protocol faces over the one data plane in serving.runtime."""
