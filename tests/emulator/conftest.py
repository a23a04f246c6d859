"""The emulated GPU, for its own tests."""

from tests.emulator.driver import gpu

__all__ = ["gpu"]
