"""Other servers on the same models, each from PyPI at a pinned version in an environment of its own.

`catalogue.py` knows how each peer is started and `environments.py` makes the environments; the other files are run by
the peers themselves, inside their environment, and so import nothing of this project.
"""
