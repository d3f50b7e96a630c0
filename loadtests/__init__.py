"""Load on a real server: `bench` measures speed beside floors, limits and peers; `overload` and `soak` try to break it.

Nothing here is imported by the server. Everything is run with `python -m loadtests...` from the repository root.
"""
