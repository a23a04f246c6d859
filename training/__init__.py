import core.openmp  # noqa: F401  before anything here imports torch
