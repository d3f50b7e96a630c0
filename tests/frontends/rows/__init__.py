"""Malformed requests, a table for each part of a request: what is sent, and what must come back."""
