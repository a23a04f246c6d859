"""Tokens: corpora, tokenizers, the prepared store, and the map from a step to its batch."""

import core.openmp  # noqa: F401  before anything here imports torch
