import models.waiting  # noqa: F401  before anything here imports torch
