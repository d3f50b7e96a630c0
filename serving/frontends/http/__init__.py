"""HTTP: the hot lane in uvicorn's parser callbacks, and the Starlette app for everything else."""
