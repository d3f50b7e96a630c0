"""Floors: the least that a server of some kind does for a request, with no model behind it."""
