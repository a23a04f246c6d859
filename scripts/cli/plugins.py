"""Plug-ins of Hydra's, which any installed package may bring."""

from __future__ import annotations

import traceback

from hydra.core.plugins import Plugins

from core.errors import UserError


def load_plugins() -> None:
    """Raises `UserError` where a plug-in of Hydra's that somebody installed cannot be loaded."""
    try:
        Plugins.instance()
    except Exception as error:
        frames = traceback.extract_tb(error.__traceback__)
        files = [frame.filename for frame in frames if "hydra_plugins" in frame.filename]
        if not files:
            raise
        raise UserError(
            f"Hydra cannot load the plug-in {files[-1]} ({type(error).__name__}: {error}): "
            "uninstall its package, or install a version of it for this Python"
        ) from error
