"""Models behind an address: the engine, its worker processes, the OpenAI API, the live page."""

from __future__ import annotations

import core.openmp  # noqa: F401  before anything here imports torch, and for workers to inherit
