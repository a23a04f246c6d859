"""Batches that begin small: fewer sequences, or shorter ones, over the first optimizer steps."""

from __future__ import annotations

import math
from dataclasses import dataclass

from conf.schema import DataConf
from core.errors import UserError

STAGES = 8
"""Sizes that a batch has on the way: one eighth of the whole, two, and so on."""


@dataclass(frozen=True)
class Growth:
    """The size of every batch as a function of the step alone, so that resuming is exact.

    A small batch is the beginning of the whole one of its step: its first sequences, and their
    first tokens. So which text a step reads does not depend on the sizes before it (batches:
    McCandlish et al. 2018, arXiv 1812.06162; lengths: Li et al. 2022, arXiv 2108.06084).
    """

    batch_size: int
    length: int
    batch_steps: int = 0
    """Optimizer steps until a batch has all its sequences; 0: it has them always."""
    length_steps: int = 0
    accumulate: int = 1
    """Micro-batches of an optimizer step."""

    @classmethod
    def of(cls, conf: DataConf, accumulate: int) -> Growth | None:
        """None where nothing grows."""
        if not conf.batch_warmup and not conf.length_warmup:
            return None
        return cls(conf.batch_size, conf.length, conf.batch_warmup, conf.length_warmup, accumulate)

    def shape(self, step: int) -> tuple[int, int]:
        """Sequences over all processes, and tokens of each, of a micro-batch of a step, from 0."""
        rows = _part(self.batch_size, stage(step, self.batch_steps))
        return rows, _part(self.length, stage(step, self.length_steps))

    def shape_of(self, number: int) -> tuple[int, int]:
        """The shape of the micro-batch `number`, counted from 0 over all steps."""
        return self.shape(number // self.accumulate)

    def check_shared(self, world: int) -> None:
        """Raise `UserError` unless so many processes can share every batch evenly."""
        stages = range(1, STAGES + 1) if self.batch_steps else ()
        for rows in (_part(self.batch_size, each) for each in stages):
            if rows % world:
                raise UserError(
                    f"data.batch_warmup={self.batch_steps} begins with batches of which one has "
                    f"{rows} sequences, and {world} processes cannot share them: make "
                    f"data.batch_size a multiple of {STAGES * world}"
                )


def stage(step: int, over: int) -> int:
    """The stage of a step: 1 at first, and `STAGES` from step `over` on."""
    return STAGES if step >= over else 1 + (STAGES - 1) * step // over


def _part(whole: int, of_stages: int) -> int:
    return math.ceil(whole * of_stages / STAGES)
