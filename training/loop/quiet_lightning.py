"""Lightning without the advice that does not apply here."""

from __future__ import annotations

import logging
import warnings


class quiet(warnings.catch_warnings):
    """Silence advice of Lightning's that does not apply here; errors still come through."""

    def __enter__(self) -> None:
        super().__enter__()
        for name in ("lightning.pytorch", "lightning.fabric"):
            logging.getLogger(name).setLevel(logging.WARNING)
        for pattern in (
            ".*does not have many workers.*",
            ".*isinstance.treespec.*",
            ".*litlogger.*",
            ".*available but not used.*",  # a device that was not asked for
            "Since DeepSpeed handles gradient clipping internally.*",  # our hook knows
            ".*recommended to use .*sync_dist=True.*",  # what we log is reduced already
            ".*torch.distributed.* is deprecated.*",  # DeepSpeed's calls
            ".*FSDP2-wrapped module.*view.*",  # no model changes its stream in place
        ):
            warnings.filterwarnings("ignore", pattern)
