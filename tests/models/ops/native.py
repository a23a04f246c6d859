"""Tests of C++ kernels are skipped, with the compiler's reason, where these cannot be built."""

from __future__ import annotations

import pytest

from models.ops.build import BuildError
from models.ops.cpu_library import CpuLibrary


def skip_without(library: CpuLibrary) -> pytest.MarkDecorator:
    """The mark of a module whose tests call the library."""
    try:
        library.load()
    except BuildError as error:
        return pytest.mark.skip(reason=str(error))
    return pytest.mark.skipif(False, reason="it can be built")
